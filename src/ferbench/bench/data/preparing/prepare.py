"""From a listing to a prepared copy in the cache: verify, find faces, decode on threads, resume, publish at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.cache import Prepared, load_prepared, put_in_place, seal, write_meta, writing
from ferbench.bench.data.preparing.checks.intact import believe, remove_changed
from ferbench.bench.data.preparing.checks.verify import (
    Files,
    compare_counts,
    few,
    file_differences,
    look_at_files,
    respelt,
    source_hash,
    stored_expected,
)
from ferbench.bench.data.preparing.checks.watch import watched
from ferbench.bench.data.preparing.decode import BadImage, Decoded, Settings, decode_image, strict_limits
from ferbench.bench.data.preparing.faces.face_boxes import Faces, find_faces, source_key
from ferbench.bench.data.preparing.partial import Partial, finished, partial_work
from ferbench.bench.data.preparing.prepared_index import index_arrays, size_notes, sizes, stored_form, turned_notes
from ferbench.bench.data.preparing.stored_form import (
    check_options,
    choose_crop,
    choose_settings,
    crop_warning,
    read_image,
)
from ferbench.bench.data.reading.account import Tree, account, look
from ferbench.bench.data.reading.listing import Listing, Options
from ferbench.bench.data.reading.reader import Progress
from ferbench.bench.data.reading.tree import reading

CHUNK = 64  # images a thread decodes at a time
SHOWN = 20  # unreadable images that the report names


def prepare_listing(
    listing: Listing,
    cache: Path,
    decoding: Options,
    *,
    partial: bool = False,
    verify: bool = False,
    threads: int = 2,
    progress: Progress | None = None,
) -> Prepared:
    """The prepared copy of a listing, made unless it is there already and whole.

    decoding: DECODE_OPTIONS resolved
    partial:  accept missing and unreadable images and counts other than the published ones: missing ones are left
              out, unreadable ones keep a black picture that is neither trained nor tested on
    verify:   hold the images of a copy that is there against their digests, however large it is
    Raises DataError, one line, for anything wrong with the files and, unless `partial`, for any such difference. What
    was decoded before an error, or before the process was killed, is not decoded again.
    """
    check_options(listing.dataset, decoding)
    with reading(listing.root):
        files = look_at_files(listing)
        listing = respelt(listing, files)
        key = source_hash(listing, files, {**decoding, "faces from": source_key(listing, str(decoding["faces"]))})
        folder = cache / f"{listing.dataset}-{key[:12]}"
        listed = _listed_meta(listing, files, look(listing.root))
        if not partial:
            refuse(listing, listed["differences"])
        checked = remove_changed(folder, listing.dataset, verify=verify, threads=threads)
        made = not finished(folder, listing.dataset)
        if made:
            _make(*_present(listing, files), folder, decoding, listed, partial, threads, progress)
    prepared = _with_meta(load_prepared(folder, listing.dataset), listing.dataset, listed)
    if not partial:
        refuse(listing, prepared.meta["decoded"]["differences"])
    return replace(prepared, checked=checked, made=made)


def _listed_meta(listing: Listing, files: Files, tree: Tree) -> dict[str, Any]:
    """What meta.json says of the listing, before anything is decoded."""
    differences, warnings, notes = compare_counts(listing)
    used = set() if listing.read else {listing.path(row) for row in range(len(listing.ids))}
    lost, left_out = account(tree, used, listing.aside, by_folder=listing.by_folder)
    return {
        "root": str(listing.root), "layout": listing.layout, "classes": list(listing.classes),
        "differences": [*listing.differences, *lost, *file_differences(listing, files), *differences],
        "warnings": [*listing.warnings, *warnings], "notes": [*listing.notes, *notes, *left_out],
        "watched": watched(listing, tree),
        "expected": stored_expected(listing), "label_files": [asdict(file) for file in listing.label_files],
    }  # fmt: skip


def _with_meta(prepared: Prepared, dataset: str, listed: Mapping[str, Any]) -> Prepared:
    """The prepared copy with what is said of its listing now, which may be more than when it was decoded."""
    if all(prepared.meta.get(name) == value for name, value in listed.items()):
        return prepared
    write_meta(prepared.folder, {**prepared.meta, **listed})
    return load_prepared(prepared.folder, dataset)


def refuse(listing: Listing, differences: Sequence[str]) -> None:
    """DataError with the first few differences, if there are any."""
    what, mend = "is not whole", "mend the folder"
    if listing.expected:
        what, mend = f"is not the published {listing.dataset}", "get the files again"
    if differences:
        more = f" and {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise DataError(
            f"{listing.root} {what}: {'; '.join(differences[:3])}{more}: {mend}, or accept this copy with --partial"
        )


def _present(listing: Listing, files: Files) -> tuple[Listing, Files]:
    """The listing without the images that are not there."""
    lost = files.lost()
    if len(lost) == 0:
        return listing, files
    rows = np.setdiff1d(np.arange(len(listing.ids)), lost)
    if len(rows) == 0:
        raise DataError(f"{listing.root}: none of the {len(lost):,} listed images is there; do lists and images match?")
    none = np.empty(0, np.int64)
    return listing.take(rows), Files(none, none, files.stamps[rows])


def _make(
    listing: Listing, files: Files, folder: Path, decoding: Options, listed: Mapping[str, Any], partial: bool,
    threads: int, progress: Progress | None,
) -> None:  # fmt: skip
    """Decode into the partial folder, then put it in place."""
    started = time.perf_counter()
    detection_key = source_hash(listing, files, {})
    faces = find_faces(listing, str(decoding["faces"]), folder.parent, detection_key, threads, progress)
    settings, own_size = choose_settings(listing, decoding, choose_crop(listing, decoding, faces))
    shape = (len(listing.ids), settings.size, settings.size, settings.channels)
    with partial_work(folder, listing.dataset, shape) as work:
        if work is None:
            return
        resumed = len(listing.ids) - len(work.pending())
        bad = decode_all(listing, faces, settings, work, threads, progress)
        unreadable = [f"{listing.path(row)} ({reason})" for row, reason in bad]
        differences = [few("unreadable image", unreadable, len(bad))] if bad else []
        if not partial:
            refuse(listing, differences)
        with writing(folder):
            work.close()
            decoded = {
                "differences": differences, "warnings": crop_warning(listing, settings.crop),
                "notes": [*faces.notes, *size_notes(work, settings, own_size), *turned_notes(work, settings)],
                "sizes": sizes(work), "unreadable": unreadable[:SHOWN], "form": stored_form(settings, faces),
                "resumed": resumed, "seconds": time.perf_counter() - started,
            }  # fmt: skip
            index = index_arrays(listing, faces, settings, work)
            seal(work.folder, listing.dataset, index, {**listed, "decoded": decoded})
            put_in_place(work.folder, folder, listing.dataset)
            believe(folder)
            (folder / "rows.npy").unlink(missing_ok=True)


def decode_all(
    listing: Listing, faces: Faces, settings: Settings, work: Partial, threads: int, progress: Progress | None = None
) -> list[tuple[int, str]]:
    """Decode every pending image into `work`; returns row and reason of those that cannot be used.

    No more than a few chunks are in memory at any time, however many images there are.
    """
    pending = work.pending()
    total, done = len(listing.ids), len(listing.ids) - len(pending)
    chunks: Iterator[NDArray[np.int64]] = (pending[start : start + CHUNK] for start in range(0, len(pending), CHUNK))
    bad: list[tuple[int, str]] = []
    with strict_limits(), ThreadPoolExecutor(threads) as pool, writing(work.folder):
        submitted = (pool.submit(_decode_chunk, listing, faces, settings, chunk) for chunk in chunks)
        running: list[Future[list[tuple[int, Decoded | str]]]] = list(islice(submitted, 2 * threads))
        while running:
            for row, result in running.pop(0).result():
                if isinstance(result, str):
                    bad.append((row, result))
                else:
                    work.store(row, result)
                done += 1
            running += islice(submitted, 1)
            if progress is not None:
                progress(done, total)
        work.flush()
    return bad


def _decode_chunk(
    listing: Listing, faces: Faces, settings: Settings, rows: NDArray[np.int64]
) -> list[tuple[int, Decoded | str]]:
    """Each row with its decoded image, or the reason why there is none."""
    results: list[tuple[int, Decoded | str]] = []
    for row in map(int, rows):
        box = None if faces.boxes is None else faces.boxes[row]
        landmarks = None if faces.landmarks is None else faces.landmarks[row]
        try:
            results.append((row, decode_image(read_image(listing, row), settings, box, landmarks)))
        except BadImage as error:
            results.append((row, str(error)))
    return results
