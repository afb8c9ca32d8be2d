"""CASIA-WebFace: half a million faces of ten thousand people, without expressions: unlabelled images.

Source: Yi et al., arXiv:1411.7923. Two forms are about: folders of 250 x 250 JPEGs per person (10,575 people, 494,414
images), and records of 112 x 112 aligned faces for face recognition (10,572 people, 490,623 images).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.listing import ListedSet, Listing, Options
from ferbench.bench.data.reading.textfile import text_of
from ferbench.bench.data.reading.tree import first_folder, image_names, nothing_found, subfolders
from ferbench.bench.data.sets.casia_webface.recordio import Damaged, parse_index, read_labels, read_record

NAME = "casia_webface"
ACCESS = "CASIA-WebFace is given out for research on request, see http://www.cbsr.ia.ac.cn"
TREES = ("CASIA-WebFace", "CASIA_WebFace", "casia-webface", "faces_webface_112x112")
FOLDER_FORM = (10_575, 494_414)
RECORD_FORM = (10_572, 490_623)
_PERSON = re.compile(r"\d{1,9}", re.ASCII)


def scan_casia_webface(root: Path, options: Options) -> Listing:
    """The copy at `root`, in either form; no options. Raises DataError."""
    bases = [base for base in (root, *(first_folder(root, [name]) for name in TREES)) if base is not None]
    for base in bases:
        if (base / "train.rec").is_file():
            if not (base / "train.idx").is_file():
                raise DataError(f"{base}: train.rec without train.idx, which says where its images begin")
            return _records(base)
    for base in bases:
        people = [name for name in subfolders(base) if _PERSON.fullmatch(name)]
        if people:
            return _folders(base, people)
    raise nothing_found(root, "CASIA-WebFace", "0000045/001.jpg and so on, or train.rec and train.idx", ACCESS)


def _folders(base: Path, people: list[str]) -> Listing:
    ids: list[str] = []
    subjects: list[int] = []
    for person in people:
        names = image_names(base / person)
        ids += [f"{person}/{name}" for name in names]
        subjects += [int(person)] * len(names)
    listing = _unlabelled(base, "folders of people", np.array(ids, np.str_), np.array(subjects, np.int64), FOLDER_FORM)
    return replace(listing, by_folder=True)


def _records(base: Path) -> Listing:
    """Record 0 names the range of the images' keys; the records after it are about people and hold no image."""
    path, index = base / "train.rec", base / "train.idx"
    offsets = parse_index(text_of(index), str(index), path.stat().st_size)
    with path.open("rb") as file:
        key = min(offsets)
        try:
            header = read_labels(file, offsets[0]) if 0 in offsets else ()
            keys = [key for key in sorted(offsets) if len(header) < 2 or 0 < key < header[0]]
            subjects = np.empty(len(keys), np.int64)
            for row, key in enumerate(keys):
                subjects[row] = int(read_labels(file, offsets[key])[0])
        except (Damaged, ValueError, OverflowError) as error:  # the last two: a label that is no number
            raise DataError(f"{path}: record {key} at byte {offsets.get(key, 0)}: {error}") from error
    places = [offsets[key] for key in keys]
    listing = _unlabelled(
        base, "records for face recognition", np.array([f"{key:07d}" for key in keys], np.str_), subjects, RECORD_FORM
    )
    return replace(listing, read=lambda row: read_record(path, places[row]).image, containers=(path, index))


def _unlabelled(
    base: Path, layout: str, ids: NDArray[np.str_], subjects: NDArray[np.int64], published: tuple[int, int]
) -> Listing:
    people = len(np.unique(subjects))
    warning = f"{people:,} people and {len(ids):,} images, published are {published[0]:,} and {published[1]:,}"
    return Listing(
        dataset=NAME,
        root=base,
        layout=layout,
        ids=ids,
        parts=np.zeros(len(ids), np.int8),
        labels=np.full(len(ids), -1, np.int64),
        classes=(),
        subjects=subjects,
        warnings=() if (people, len(ids)) == published else (warning,),
    )


CASIA_WEBFACE_SET = ListedSet(
    name=NAME,
    summary="CASIA-WebFace: 494,414 faces (490,623 as records) without expressions; for research, on request",
    root_env="FERBENCH_CASIA_WEBFACE_ROOT",
    scan=scan_casia_webface,
    access=ACCESS,
    defaults={"channels": "rgb"},
)
