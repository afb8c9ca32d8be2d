"""The identity of a face set, so that a record can say which images and labels it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike


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
