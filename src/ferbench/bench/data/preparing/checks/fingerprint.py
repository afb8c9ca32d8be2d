"""The identity of a face set, so that a record can say which images and labels it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray


def faceset_fingerprint(
    options: Mapping[str, str | int | bool],
    ids: Iterable[str],
    labels: ArrayLike,
    parts: ArrayLike,
    train: ArrayLike,
    test: ArrayLike,
) -> str:
    """SHA-256 (hex) over the options, the ids, the labels, the parts and the train and test indices.

    It depends neither on the order of the options nor on the arrays' dtype or byte order, and every field is preceded
    by its length in bytes, so that two sets cannot share a digest by moving a value from one field to the next.
    """
    digest = hashlib.sha256()
    fields = [json.dumps(dict(options), sort_keys=True, ensure_ascii=False).encode(), "\n".join(ids).encode()]
    fields += [np.asarray(values).astype("<i8").tobytes() for values in (labels, parts, train, test)]
    for field in fields:
        digest.update(len(field).to_bytes(8, "little"))
        digest.update(field)
    return digest.hexdigest()


def image_digest(image: NDArray[np.uint8]) -> bytes:
    """16 bytes that are the same for the same pixels, and for no others by accident."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def image_digests(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, 16] the digest of each image of [N, H, W, C]."""
    plain = np.asarray(images)  # rows of a memory map cost more than their digests
    return np.frombuffer(b"".join(map(image_digest, plain)), np.uint8).reshape(-1, 16)


def pixel_fingerprint(digests: NDArray[np.uint8]) -> str:
    """SHA-256 (hex) over the digests [N, 16] of all images in their order; zeros stand for an image without pixels."""
    return hashlib.sha256(np.ascontiguousarray(digests).tobytes()).hexdigest()


def same_pixels(digests: NDArray[np.uint8], readable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[N] index of the first image with exactly the same pixels, itself where there is none; unreadable: itself."""
    _, first, group = np.unique(
        np.ascontiguousarray(digests).view("S16"), return_index=True, return_inverse=True
    )  # byte strings of one length compare rightly, whatever zeros they end in
    return np.where(readable, first[group.reshape(-1)], np.arange(len(digests))).astype(np.int64)
