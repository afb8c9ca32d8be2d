"""Data sets on the listing framework: prepared and opened, whatever they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.preparing.cache import Prepared, load_prepared, recall, remember
from ferbench.bench.data.preparing.checks.copies import deduplicated
from ferbench.bench.data.preparing.checks.fingerprint import faceset_fingerprint
from ferbench.bench.data.preparing.checks.intact import check_opened
from ferbench.bench.data.preparing.checks.watch import hold_unchanged
from ferbench.bench.data.preparing.listed_report import listed_report
from ferbench.bench.data.preparing.prepare import prepare_listing
from ferbench.bench.data.reading.listing import DECODE_OPTIONS, Column, Labelling, ListedSet, Options, part_codes
from ferbench.bench.data.reading.reader import Progress, Reader, Request
from ferbench.bench.data.reading.report import PreparedReport
from ferbench.bench.data.reading.tree import nothing_found, reading
from ferbench.validation import Value, resolve_options


def prepare_listed(
    dataset: ListedSet,
    options: Options,
    *,
    root: Path | None,
    cache: Path,
    partial: bool = False,
    verify: bool = False,
    threads: int = 2,
    progress: Progress | None = None,
) -> PreparedReport:
    """Scan, verify and decode the copy at `root` unless that was done before, and report on it. Raises DataError."""
    chosen = resolve_options(dataset.name, dataset.options, options, DataError)
    if root is None:
        raise DataError(
            f"{dataset.name} needs your copy of the files: run `ferbench prepare {dataset.name} --root PATH`"
        )
    if not root.is_dir():
        raise nothing_found(root, dataset.name, "", dataset.access)
    root = root.absolute()
    with reading(root):
        listing = dataset.scan(root, {key: chosen[key] for key in dataset.scan_options if key in chosen})
    decoding = {key: chosen[key] for key in DECODE_OPTIONS}
    prepared = prepare_listing(
        listing, cache, decoding, partial=partial, verify=verify, threads=threads, progress=progress
    )
    for at in (root, None):
        remember(_note(dataset, chosen, at), prepared.folder)
    remember(dataset.prepared_name, prepared.folder)
    (faces, labelling) = _faces(dataset, prepared, chosen)
    return listed_report(prepared, faces, labelling, cached=not prepared.made)


def open_listed(
    dataset: ListedSet, options: Options, *, root: Path | None, cache: Path, progress: Progress | None = None
) -> FaceSet:
    """The data set under `options`, prepared first where it is not. Raises DataError.

    Where the user's files have changed since they were prepared, that is an error: see `watch.py`.
    """
    chosen = resolve_options(dataset.name, dataset.options, options, DataError)
    folder = recall(_note(dataset, chosen, root), cache)
    just_made = folder is None
    if folder is None and root is None:
        root, partial = _last_root(dataset, cache)
        prepare_listed(dataset, options, root=root, cache=cache, partial=partial, progress=progress)
        folder = recall(_note(dataset, chosen, None), cache)
    elif folder is None:
        prepare_listed(dataset, options, root=root, cache=cache, progress=progress)
        folder = recall(_note(dataset, chosen, root), cache)
    assert folder is not None
    prepared = load_prepared(folder, dataset.prepared_name, dataset.name)
    if not just_made:
        hold_unchanged(prepared.meta, dataset.name)
    check_opened(prepared, dataset.name)
    return _faces(dataset, prepared, chosen)[0]


def _note(dataset: ListedSet, chosen: Options, root: Path | None) -> str:
    """The name under which a prepared copy is remembered: the options that make it, and where the files lay."""
    made_by = {key: chosen[key] for key in (*dataset.scan_options, *DECODE_OPTIONS) if key in chosen}
    text = json.dumps([made_by, str(root.resolve()) if root else None], sort_keys=True)
    return f"{dataset.prepared_name}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _last_root(dataset: ListedSet, cache: Path) -> tuple[Path, bool]:
    """Where the copy lay that was prepared last, perhaps under other options, and whether it had differences."""
    folder = recall(dataset.prepared_name, cache)
    if folder is None:
        raise DataError(f"{dataset.name} is not prepared: run `ferbench prepare {dataset.name} --root PATH`")
    meta = load_prepared(folder, dataset.prepared_name, dataset.name).meta
    return Path(str(meta["root"])), bool(meta["differences"] or meta["decoded"]["differences"])


def _faces(dataset: ListedSet, prepared: Prepared, chosen: Mapping[str, Value]) -> tuple[FaceSet, Labelling]:
    """The face set of a prepared copy under resolved options, and the labelling it was made from."""
    index = prepared.index
    labelling = Labelling(tuple(prepared.meta["classes"]), index["labels"], index["parts"], index.get("votes"))
    if dataset.relabel is not None:
        labelling = dataset.relabel(labelling, columns_in(prepared), {key: chosen[key] for key in dataset.open_options})
    train_parts, test_parts = str(chosen["train_parts"]), str(chosen["test_parts"])
    if set(train_parts.split("+")) & set(test_parts.split("+")):
        raise DataError(
            f"{dataset.name}: train_parts={train_parts} and test_parts={test_parts} overlap; choose separate parts"
        )
    kept = index["readable"] & ((labelling.labels >= 0) | (len(labelling.classes) == 0))
    train, test = (
        np.flatnonzero(kept & np.isin(labelling.parts, part_codes(parts))) for parts in (train_parts, test_parts)
    )
    if dataset.unlabelled:
        train = np.flatnonzero(index["readable"] & np.isin(labelling.parts, part_codes(train_parts)))
    train, test = deduplicated(train, test, index, str(chosen["dedupe"]))
    options = {key: value for key, value in chosen.items() if not isinstance(value, float)}  # none is one
    faces = FaceSet(
        name=dataset.name,
        classes=labelling.classes,
        images=prepared.images,
        labels=labelling.labels,
        parts=labelling.parts,
        ids=index["ids"],
        train=train,
        test=test,
        options=options,
        fingerprint=faceset_fingerprint(options, index["ids"], labelling.labels, labelling.parts, train, test),
        votes=labelling.votes,
        boxes=index.get("boxes"),
        subjects=index.get("subjects"),
        folds=index.get("column_folds"),
        same_pixels=index["same_pixels"],
        near_copies=index["near_copies"],
        pixels=str(prepared.meta["pixels"]),
    )
    return faces, labelling


def columns_in(prepared: Prepared) -> dict[str, Column]:
    """The listing's own columns by name, with `ids` and, where they are known, `subjects`."""
    prefix = "column_"
    columns = {name.removeprefix(prefix): value for name, value in prepared.index.items() if name.startswith(prefix)}
    return columns | {name: prepared.index[name] for name in ("ids", "subjects") if name in prepared.index}


def listed_reader(dataset: ListedSet) -> Reader:
    """The reader of a data set on the listing framework."""

    def prepare(request: Request) -> PreparedReport:
        return prepare_listed(
            dataset,
            request.options,
            root=request.root,
            cache=request.cache,
            partial=request.partial,
            verify=request.verify,
            threads=request.threads,
            progress=request.progress,
        )

    def open_set(request: Request) -> FaceSet:
        return open_listed(dataset, request.options, root=request.root, cache=request.cache, progress=request.progress)

    return Reader(dataset.name, dataset.summary, dataset.options, dataset.root_env, prepare, open_set)
