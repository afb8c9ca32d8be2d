"""Preparing FERPlus: recognise the user's copy, verify it, decode it once, and report how it compares."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError, FaceSet
from ferbench.bench.data.preparing.cache import Prepared, load_prepared, remember, write_prepared
from ferbench.bench.data.preparing.checks.copies import near_notes
from ferbench.bench.data.preparing.checks.fingerprint import image_digests, same_pixels
from ferbench.bench.data.preparing.checks.intact import believe, remove_changed
from ferbench.bench.data.preparing.checks.near import near_copies, thumbnails
from ferbench.bench.data.preparing.checks.watch import watch_list
from ferbench.bench.data.preparing.resized import resized
from ferbench.bench.data.reading.account import account, look
from ferbench.bench.data.reading.pixel_table import SIDE
from ferbench.bench.data.reading.reader import Progress
from ferbench.bench.data.reading.report import LabelFileNote, PreparedReport
from ferbench.bench.data.sets.ferplus.checks import check_columns, count_differences, count_table, duplicate_notices
from ferbench.bench.data.sets.ferplus.csv import VoteTable
from ferbench.bench.data.sets.ferplus.decode import CHUNK, Key, decode_csv, decode_pngs, few
from ferbench.bench.data.sets.ferplus.faces import ferplus_faces
from ferbench.bench.data.sets.ferplus.index import build_index, image_id, sources_in
from ferbench.bench.data.sets.ferplus.options import NAME, OPTIONS
from ferbench.bench.data.sets.ferplus.reader import open_ferplus
from ferbench.bench.data.sets.ferplus.source import FOLDERS, Source, find_source, reading
from ferbench.validation import Value, resolve_options

# Two rows of FER2013 bear this name; Microsoft's script lets the second, a warning sign, overwrite the first's face.
PLACEHOLDER = "FER2013Test/fer0033120.png"
PLACEHOLDER_SHA256 = "792b327c58432d279abaa6cc2f999160dd7540983a613842f3fcdec811ae7fb4"  # of its 2,304 pixels


def prepare_ferplus(
    root: Path,
    cache_dir: Path,
    *,
    options: Mapping[str, Value] | None = None,
    partial: bool = False,
    verify: bool = False,
    threads: int = 2,
    progress: Progress | None = None,
) -> PreparedReport:
    """Recognise, verify and decode the copy at `root`, unless that was done before, and report on it under `options`.

    partial: accept missing images and counts other than the published ones; the report lists them
    verify:  hold the images of a copy that is there against their digests; that of this size always is
    Raises DataError, one line, for damaged or missing files and, unless `partial`, for any such difference.
    """
    source = find_source(root)
    folder = prepared_folder(source, cache_dir)
    checked = remove_changed(folder, NAME, verify=verify, threads=threads)
    prepared = _reusable(folder)
    cached = prepared is not None
    if prepared is None:
        with reading(root):
            prepared = _decode(source, folder, partial, threads, progress)
    if not partial:
        _refuse(root, prepared.meta["differences"])
    remember(NAME, folder)
    chosen = resolve_options(NAME, OPTIONS, options or {}, DataError)
    if "source" not in (options or {}):
        chosen["source"] = sources_in(prepared.index)[0]
    arguments: dict[str, Any] = chosen
    resized(prepared, NAME, int(chosen.get("size", 0)), threads=threads, progress=progress)
    faces = ferplus_faces(prepared, str(chosen.get("faces", "none")), threads=threads, progress=progress)
    data = open_ferplus(folder, **arguments)
    return _report(prepared, data, source, cached, (*checked, *faces.notes))


def prepared_folder(source: Source, cache_dir: Path) -> Path:
    """Where the prepared form of this copy belongs."""
    return cache_dir / f"{NAME}-{source.hash[:12]}"


def _reusable(folder: Path) -> Prepared | None:
    """What an earlier call prepared, None where there is nothing or it is damaged and must be made again."""
    if not folder.is_dir():
        return None
    try:
        return load_prepared(folder, NAME)
    except DataError:
        return None


def _decode(source: Source, folder: Path, partial: bool, threads: int, progress: Progress | None) -> Prepared:
    started = time.perf_counter()
    tables = source.tables()
    check_columns(tables, FOLDERS)
    keys, missing, notices = _choose(source, tables)
    index = build_index(keys, tables)
    differences = missing + count_differences(index)
    if not partial:
        _refuse(source.root, differences)
    with write_prepared(folder, NAME, (len(keys), SIDE, SIDE, 1)) as draft:
        if source.pixels is None:
            decode_pngs(source.folders, keys, draft.images, threads=threads, progress=progress)
        else:
            decode_csv(source.pixels, tables["new_csv"][0], keys, draft.images, progress)
        draft.index = index | _copies(draft.images)
        tree = look(source.root)
        folders = [_relative(folder, source.root) for folder in source.folders if folder is not None]
        labels = [file.path for file in source.label_files] + ([source.pixels] if source.pixels else [])
        _, left_out = account(tree, _used(source), {}, by_folder=False)
        draft.meta = {
            "root": str(source.root.absolute()),
            "watched": watch_list(source.root, labels, tree, folders, every=False),
            "source_sha256": source.hash,
            "layout": source.layout,
            "differences": differences,
            "notices": notices + _name_notices(tables) + left_out,
            "placeholder": _placeholder(keys, draft.images),
            "seconds": time.perf_counter() - started,
        }
    believe(folder)
    return load_prepared(folder, NAME)


def _copies(images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Digests of the images, and which of them are the same or nearly the same."""
    digests, readable = image_digests(images), np.ones(len(images), np.bool_)
    same = same_pixels(digests, readable)
    thumbs = np.concatenate([thumbnails(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)])
    return {"digests": digests, "same_pixels": same, "near_copies": near_copies(thumbs, same, readable)}


def _relative(path: Path, root: Path) -> str:
    return "" if path == root else path.relative_to(root).as_posix()


def _used(source: Source) -> set[str]:
    """Paths below the root of all images that lie in the folders of the parts: those no label file names are told of
    by themselves."""
    return {
        f"{_relative(folder, source.root)}/{name}"
        for folder, files in zip(source.folders, source.files, strict=True)
        if folder is not None
        for name in files
    }


def _choose(source: Source, tables: Mapping[str, list[VoteTable]]) -> tuple[list[Key], list[str], list[str]]:
    """Images to decode, in order; a line per part with missing images; notices. Zero-byte files raise DataError."""
    named = {key for parsed in tables.values() for table in parsed for key in table.keys() if key[1]}
    if source.pixels is None:
        sizes = {(part, name): stat[0] for part, files in enumerate(source.files) for name, stat in files.items()}
        empty = [image_id(key) for key in sizes.keys() & named if sizes[key] == 0]
        if empty:
            raise DataError(f"{few('zero-byte image', empty)}; copy again, or delete and prepare with --partial")
        present = set(sizes)
    else:
        present = {key for key in tables["new_csv"][0].keys() if key[1]}
    absent, extra = sorted(named - present), sorted(present - named)
    if not named & present:
        raise DataError(
            f"{source.root}: the label files name none of its {len(present)} images; are they of this copy?"
        )
    missing = [
        few(f"missing image of {part}", [image_id(key) for key in absent if key[0] == code])
        for code, part in enumerate(PARTS)
        if any(key[0] == code for key in absent)
    ]
    notices = [few("image that no label file names, left out", [image_id(key) for key in extra])] if extra else []
    return sorted(named & present), missing, notices


def _refuse(root: Path, differences: list[str]) -> None:
    """DataError with the first few differences, if there are any."""
    if differences:
        more = f" and {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise DataError(
            f"{root} is not the published FERPlus: {'; '.join(differences[:3])}{more}: "
            "get the files again, or accept this copy with --partial"
        )


def _name_notices(tables: Mapping[str, list[VoteTable]]) -> list[str]:
    """Rows without a name and names given twice, per label file."""
    notices = []
    for source, parsed in tables.items():
        keys = [key for table in parsed for key in table.keys()]
        named = [key for key in keys if key[1]]
        rows, files = (
            "/".join(f"{sum(key[0] == part for key in some):,}" for part in range(len(PARTS)))
            for some in (named, set(named))
        )
        if len(keys) > len(named):
            notices.append(f"{source}: {len(keys) - len(named)} rows name no image (not a face), skipped")
        if len(named) > len(set(named)):
            repeated = sorted(key[1] for key, rows_of in Counter(named).items() if rows_of > 1)
            notices.append(
                f"{source}: {len(repeated)} names are there twice ({', '.join(repeated[:4])}), the first row counts: "
                f"{rows} named rows, {files} images"
            )
    return notices


def _placeholder(keys: list[Key], images: NDArray[np.uint8]) -> int | None:
    """Index of the warning sign among the images, None where this copy has the face (as in the csv layout)."""
    for row, key in enumerate(keys):
        if image_id(key) == PLACEHOLDER and hashlib.sha256(images[row].tobytes()).hexdigest() == PLACEHOLDER_SHA256:
            return row
    return None


def _report(prepared: Prepared, data: FaceSet, source: Source, cached: bool, notes: tuple[str, ...]) -> PreparedReport:
    notices = [*prepared.meta["notices"], *notes]
    if prepared.meta["placeholder"] is not None:
        what = "left out" if data.options["placeholder"] == "drop" else "kept, as asked for"
        notices.append(f"{PLACEHOLDER} is a warning sign, not a face: {what}")
    return PreparedReport(
        dataset=NAME,
        root=str(source.root),
        layout="48 x 48 PNGs in FER2013 folders" if source.layout == "folders" else f"pixels from {source.pixels}",
        options=data.options,
        classes=data.classes,
        images=len(data.images),
        train=len(data.train),
        test=len(data.test),
        counts_of=f"named rows, {data.options['source']}, {data.options['rule']}",
        counts=count_table(prepared.index, str(data.options["source"]), str(data.options["rule"])),
        label_files=tuple(LabelFileNote(str(file.path), file.sha256, file.known) for file in source.label_files),
        differences=tuple(prepared.meta["differences"]),
        notices=(*notices, *duplicate_notices(prepared.index, data), *near_notes(prepared.index, data)),
        decoded_s=prepared.meta["seconds"],
        cached=cached,
        fingerprint=data.fingerprint,
        folder=str(prepared.folder),
        pixels=prepared.meta["pixels"],
    )
