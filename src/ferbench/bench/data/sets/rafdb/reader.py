"""RAF-DB: 15,339 faces from the web with one basic expression each, and the set with compound expressions.

Source: Li, Deng and Du, CVPR 2017. Codes are the authors' 1 to 7, kept in that order as 0 to 6. In every layout an
image is named after its original file (train_00001.jpg), so that a seed draws the same split from each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.cells import REPEATED
from ferbench.bench.data.reading.listing import Column, Labelling, ListedSet, Listing, Options
from ferbench.bench.data.reading.names import RAFDB, RAFDB_COMPOUND
from ferbench.bench.data.reading.textfile import note
from ferbench.bench.data.reading.tree import archives_in, first_folder, nothing_found
from ferbench.bench.data.sets.rafdb.lists import PARTITION, original_name, read_boxes, read_landmarks
from ferbench.bench.data.sets.rafdb.repacks import read_folders, read_private_lists
from ferbench.bench.data.sets.rafdb.rows import NAME, NOISE, rafdb_listing, read_rows, with_noise
from ferbench.validation import Option

ACCESS = "RAF-DB is given to institutions on request by e-mail, see http://www.whdeng.cn/RAF/model1.html"
TREES = ("RAF-DB", "RAFDB", "RAF_DB", "raf-basic", "DATASET")
CODES: Mapping[str, Mapping[int, str]] = {"basic": RAFDB, "compound": RAFDB_COMPOUND}


def scan_rafdb(root: Path, options: Options) -> Listing:
    """The copy at `root`; options: labels (basic or compound), images (aligned or original). Raises DataError."""
    bases = [base for base in (root, *(first_folder(root, [name]) for name in TREES)) if base is not None]
    labels, images = str(options["labels"]), str(options["images"])
    for base in bases:
        for tree in (base, first_folder(base, [labels])):
            if tree is not None and (tree / PARTITION).is_file() and _is_tree_of(tree, labels):
                return _official(tree, labels, images, options.get("repeated"))
    if labels == "compound":
        raise nothing_found(root, "compound RAF-DB", f"compound/{PARTITION} and compound/Image/aligned", ACCESS)
    if images == "original":
        raise DataError(f"{root}: images=original needs the official tree (basic/Image/original), not a re-pack")
    for read in (read_folders, read_private_lists):
        for base in bases:
            listing = read(base, options.get("repeated"))
            if listing is not None:
                return listing
    raise _refusal(root)


def _refusal(root: Path) -> DataError:
    folders = [folder for folder in (root, root / "data") if folder.is_dir()]
    if any(name.endswith(".parquet") for folder in folders for name in archives_in(folder)):
        return DataError(
            f"{root} is a parquet mirror of RAF-DB: not the authors' files, not read by ferbench; {ACCESS}"
        )
    return nothing_found(
        root, "RAF-DB", f"basic/{PARTITION} with basic/Image/aligned, or train/1..7 and test/1..7", ACCESS
    )


def _is_tree_of(tree: Path, labels: str) -> bool:
    """basic/ and compound/ look the same but for their codes; a folder under neither name is told by its codes."""
    named = tree.name.casefold()
    if named in CODES:
        return named == labels
    return (max(row.code for row in read_rows(tree / PARTITION, RAFDB_COMPOUND)) > len(RAFDB)) == (labels == "compound")


def _official(tree: Path, labels: str, images: str, repeated: object) -> Listing:
    """The authors' tree: the list names the original files, the split is the prefix of the name."""
    codes, path = CODES[labels], tree / PARTITION
    rows = read_rows(path, codes)
    names = [original_name(row.name) or row.name for row in rows]  # some lists name the aligned images
    parts = [_part(name, path) for name in names]
    stems = [name.removesuffix(".jpg") for name in names]
    folder = "aligned" if images == "aligned" else "original"
    listing = rafdb_listing(
        tree,
        f"official tree, {labels}, {folder} images",
        names,
        [f"Image/{folder}/{stem}{_suffix(tree / 'Image' / folder, stems[0])}" for stem in stems],
        parts,
        [row.code - 1 for row in rows],
        codes,
        (note(path),),
        repeated=repeated,
    )
    if images == "original":
        sorted_stems = [str(name).removesuffix(".jpg") for name in listing.ids]
        boxes, landmarks = read_boxes(tree, sorted_stems), read_landmarks(tree, sorted_stems)
        notes = list(listing.notes)
        if boxes is None:
            notes.append("no Annotation/boundingbox: the images have no boxes")
        listing = replace(listing, boxes=boxes, landmarks=landmarks, notes=tuple(notes), uncropped=True)
    other = "Image/original" if images == "aligned" else "Image/aligned"
    return replace(with_noise(tree, listing), aside={other: f"images={other.rpartition('/')[2]} takes them"})


def _suffix(folder: Path, stem: str) -> str:
    """How image files are called after their original: aligned ones bear _aligned in the authors' tree, not in all."""
    plain = folder.name == "original" or (
        (folder / f"{stem}.jpg").is_file() and not (folder / f"{stem}_aligned.jpg").is_file()
    )
    return ".jpg" if plain else "_aligned.jpg"


def _part(name: str, path: Path) -> int:
    for code, part in enumerate(PARTS):
        if name.startswith(f"{part}_"):
            return code
    raise DataError(f"{path}: {name!r} starts with neither train_ nor test_, so its part is not known")


def relabel_rafdb(labelling: Labelling, columns: Mapping[str, Column], options: Options) -> Labelling:
    """Training labels from one of the noise lists, where asked for."""
    noise = str(options["noise"])
    if noise == "none":
        return labelling
    if noise not in columns:
        raise DataError(f"rafdb: noise={noise} needs EmoLabel/{noise}.txt in the copy; put it there and prepare again")
    train = labelling.parts == PARTS.index("train")
    labels: NDArray[np.int64] = np.where(train, columns[noise], labelling.labels)
    flipped = float((labels != labelling.labels)[train].mean()) if train.any() else 0.0
    return replace(labelling, labels=labels, notes=(f"{noise}: {flipped:.1%} of the training labels are changed",))


RAFDB_SET = ListedSet(
    name=NAME,
    summary="RAF-DB: 12,271 training and 3,068 test faces, seven basic expressions; on request from its authors",
    root_env="FERBENCH_RAFDB_ROOT",
    scan=scan_rafdb,
    access=ACCESS,
    scan_options={
        "labels": Option("basic", "basic: seven classes; compound: eleven", ("basic", "compound")),
        "images": Option("aligned", "100 x 100 as aligned by the authors, or as collected", ("aligned", "original")),
        "repeated": REPEATED,
    },
    open_options={"noise": Option("none", "training labels from one of EAC's noise lists", NOISE)},
    relabel=relabel_rafdb,
    defaults={"channels": "rgb"},
)
