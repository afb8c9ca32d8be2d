"""Images of any kind without labels: every image file below a folder, for use as unlabelled data.

The folder is walked in a fixed order and only paths are kept; images are decoded in small groups, so that memory does
not grow with their number but by the paths (about a gigabyte for five million).
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.listing import ListedSet, Listing, Options
from ferbench.bench.data.reading.tree import nothing_found, walk_images
from ferbench.validation import Option

NAME = "faces"
ACCESS = "any images of faces that you may use: no labels, no order"


def scan_faces(root: Path, options: Options) -> Listing:
    """Every image below `root`, or the first `most`. Raises DataError where there is none."""
    most = int(options["most"])
    if most < 0:
        raise DataError(f"option 'most' for {NAME} must be 0 (all) or more, not {most}")
    ids = np.array(list(islice(walk_images(root), most or None)), np.str_)
    if len(ids) == 0:
        raise nothing_found(root, "images", "image files in any folders", ACCESS)
    return Listing(
        dataset=NAME,
        root=root,
        layout="images in folders",
        ids=ids,
        parts=np.zeros(len(ids), np.int8),
        labels=np.full(len(ids), -1, np.int64),
        classes=(),
        notes=(f"the first {most:,} images by path",) if most and len(ids) == most else (),
        aside={"": "only the first are taken"} if most and len(ids) == most else {},
    )


FACES_SET = ListedSet(
    name=NAME,
    summary="images of your own without labels, in any folders: unlabelled data",
    root_env="FERBENCH_FACES_ROOT",
    scan=scan_faces,
    access=ACCESS,
    scan_options={"most": Option(0, "take no more than so many images, the first by path; 0: all")},
)
