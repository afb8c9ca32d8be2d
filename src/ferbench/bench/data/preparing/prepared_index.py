"""What a prepared copy of a listing remembers: the arrays of index.npz, and what the report says of the files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.preparing.checks.fingerprint import same_pixels
from ferbench.bench.data.preparing.checks.near import near_copies
from ferbench.bench.data.preparing.decode import GREY_MODES, MODES, Settings
from ferbench.bench.data.preparing.faces.face_boxes import Faces
from ferbench.bench.data.preparing.geometry import map_boxes, map_points
from ferbench.bench.data.preparing.partial import Partial
from ferbench.bench.data.reading.listing import Listing


def index_arrays(listing: Listing, faces: Faces, settings: Settings, work: Partial) -> dict[str, NDArray[Any]]:
    """index.npz: what load_prepared promises, and the columns of the listing, moved to the stored pixels."""
    matrices, done = work.rows["matrix"], work.rows["done"] == 1
    digests = np.ascontiguousarray(work.rows["digest"])
    same = same_pixels(digests, done)
    arrays: dict[str, NDArray[Any]] = {
        "ids": listing.ids, "parts": listing.parts, "labels": listing.labels, "readable": done, "digests": digests,
        "same_pixels": same, "near_copies": near_copies(work.rows["thumbnail"], same, done),
    }  # fmt: skip
    if faces.boxes is not None:
        boxes = map_boxes(matrices, faces.boxes, settings.size)
        lost = ~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
        arrays["boxes"] = np.where(lost[:, None], np.float32(np.nan), boxes)
    if faces.landmarks is not None:
        arrays["landmarks"] = map_points(matrices, faces.landmarks)
    for name in ("subjects", "votes"):
        if getattr(listing, name) is not None:
            arrays[name] = getattr(listing, name)
    return arrays | {f"column_{name}": column for name, column in listing.columns.items()}


def stored_form(settings: Settings, faces: Faces) -> dict[str, str | int | float | None]:
    """How images were stored, for the report; `default boxes`: share of images whose box is not known."""
    unknown = None if faces.boxes is None else float((~np.isfinite(faces.boxes).all(axis=1)).mean())
    return asdict(settings) | {"colour order": "rgb", "boxes from": faces.source, "default boxes": unknown}


def sizes(work: Partial) -> dict[str, int]:
    """Images per size and mode of the file, the commonest first."""
    done = work.rows[work.rows["done"] == 1]
    keys = np.stack([done["width"], done["height"], done["mode"].astype(np.int32)], axis=1)
    unique, counts = np.unique(keys, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {f"{unique[k, 0]}x{unique[k, 1]} {MODES[unique[k, 2]]}": int(counts[k]) for k in order}


def size_notes(work: Partial, settings: Settings, own_size: bool) -> list[str]:
    """Where the stored square is not what some images were."""
    done = work.rows[work.rows["done"] == 1]
    other = int(((done["width"] != settings.size) | (done["height"] != settings.size)).sum())
    grey = [MODES.index(mode) for mode in GREY_MODES]
    coloured = int((~np.isin(done["mode"], grey)).sum()) if settings.channels == 1 else 0
    return [
        *([f"{other:,} images are not {settings.size} x {settings.size}: resized ({settings.resize})"]
          if other and own_size else []),
        *([f"{coloured:,} colour images are stored grey; channels=rgb keeps their colours"] if coloured else []),
    ]  # fmt: skip


def turned_notes(work: Partial, settings: Settings) -> list[str]:
    """How many images lie on their side in their files, and what was done about it."""
    count = int((work.rows["turned"] == 1).sum())
    if not count:
        return []
    done = "turned upright" if settings.turn else "left as they are, since the boxes are in pixels of the file"
    return [f"{count:,} images have an EXIF orientation other than upright: {done}"]
