"""The data sets ferbench can read, by name: their options, how each is prepared and how each is opened.

The command line and the protocols both come through here, so that a misspelt data set, option or value is refused in
the same words wherever it was written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.preparing.cache import Progress, recall
from ferbench.bench.data.preparing.listed import open_listed, prepare_listed
from ferbench.bench.data.reading.listing import ListedSet
from ferbench.bench.data.reading.options import Option, Value, resolve_options
from ferbench.bench.data.reading.report import PreparedReport, describe
from ferbench.bench.data.sets.adience.reader import ADIENCE_SET
from ferbench.bench.data.sets.affectnet.reader import AFFECTNET7, AFFECTNET8
from ferbench.bench.data.sets.casia_webface.reader import CASIA_WEBFACE_SET
from ferbench.bench.data.sets.ckplus.reader import CKPLUS_SET
from ferbench.bench.data.sets.fer2013.reader import FER2013_SET
from ferbench.bench.data.sets.ferplus import reader as ferplus
from ferbench.bench.data.sets.ferplus.prepare import prepare_ferplus, prepared_folder
from ferbench.bench.data.sets.ferplus.source import find_source
from ferbench.bench.data.sets.own.csv_table import CSV_SET
from ferbench.bench.data.sets.own.faces import FACES_SET
from ferbench.bench.data.sets.own.folder import FOLDER_SET
from ferbench.bench.data.sets.rafdb.reader import RAFDB_SET
from ferbench.bench.data.sets.sfew.reader import SFEW_SET
from ferbench.bench.data.sets.synthetic.reader import synthetic


@dataclass(frozen=True)
class Request:
    """What a reader is asked for: options as the user gave them (checked), where the files and the cache lie."""

    options: Mapping[str, Value]
    root: Path | None
    cache: Path
    partial: bool = False
    threads: int = 2
    progress: Progress | None = None


@dataclass(frozen=True)
class Reader:
    """A data set by name; root_env is the environment variable that may name the user's copy, None: no files needed."""

    name: str
    summary: str
    options: Mapping[str, Option]
    root_env: str | None
    prepare: Callable[[Request], PreparedReport]
    open: Callable[[Request], FaceSet]


def open_dataset(
    name: str,
    options: Mapping[str, Value],
    *,
    root: Path | None = None,
    cache: Path,
    progress: Progress | None = None,
) -> FaceSet:
    """The data set `name` under `options` (those left out take their defaults), decoded first where needed.

    The user's files are looked for at `root`, else where the data set's environment variable points; with neither,
    the copy that `ferbench prepare` made last is opened. Raises DataError, one line, for anything that is wrong.

    progress: called with (images done, images in all) where images are decoded or searched for faces
    """
    reader = find_reader(name)
    resolve_options(name, reader.options, options)
    return reader.open(Request(options, root or _root_from_environment(reader), cache, progress=progress))


def prepare_dataset(
    name: str,
    options: Mapping[str, Value],
    *,
    root: Path | None = None,
    cache: Path,
    partial: bool = False,
    threads: int = 2,
    progress: Progress | None = None,
) -> PreparedReport:
    """Read, verify and decode the data set `name` into `cache`, and report on it under `options`. Raises DataError.

    partial: accept a copy with missing images or other counts than the published ones
    threads: images decoded at once; progress: called with (images done, images in all)
    """
    reader = find_reader(name)
    resolve_options(name, reader.options, options)
    root = root or _root_from_environment(reader)
    return reader.prepare(Request(options, root, cache, partial, threads, progress))


def find_reader(name: str) -> Reader:
    """The reader called `name`; DataError names the known ones."""
    if name not in READERS:
        raise DataError(f"unknown data set {name!r}; data sets: {', '.join(READERS)}")
    return READERS[name]


def _root_from_environment(reader: Reader) -> Path | None:
    value = os.environ.get(reader.root_env) if reader.root_env else None
    return Path(value) if value else None


def _prepare_ferplus(request: Request) -> PreparedReport:
    if request.root is None:
        raise DataError("ferplus needs your copy of the files: run `ferbench prepare ferplus --root PATH`")
    return prepare_ferplus(
        request.root,
        request.cache,
        options=request.options,
        partial=request.partial,
        threads=request.threads,
        progress=request.progress,
    )


def _open_ferplus(request: Request) -> FaceSet:
    if request.root is None:
        folder = recall(ferplus.NAME, request.cache)
        if folder is None:
            raise DataError("ferplus is not prepared: run `ferbench prepare ferplus --root PATH`")
    else:
        folder = prepared_folder(find_source(request.root), request.cache)
        if not folder.is_dir():
            prepare_ferplus(request.root, request.cache, progress=request.progress)
    arguments = _arguments(ferplus.NAME, ferplus.OPTIONS, request)
    return ferplus.open_ferplus(folder, **arguments, progress=request.progress)


def _open_synthetic(request: Request) -> FaceSet:
    return synthetic(**_arguments("synthetic", SYNTHETIC_OPTIONS, request), cache=request.cache)


def _prepare_synthetic(request: Request) -> PreparedReport:
    return describe(_open_synthetic(request), layout="drawn by ferbench, no files needed")


def listed_reader(dataset: ListedSet) -> Reader:
    """The reader of a data set on the listing framework."""

    def prepare(request: Request) -> PreparedReport:
        return prepare_listed(
            dataset,
            request.options,
            root=request.root,
            cache=request.cache,
            partial=request.partial,
            threads=request.threads,
            progress=request.progress,
        )

    def open_set(request: Request) -> FaceSet:
        return open_listed(dataset, request.options, root=request.root, cache=request.cache, progress=request.progress)

    return Reader(dataset.name, dataset.summary, dataset.options, dataset.root_env, prepare, open_set)


def _arguments(name: str, declared: Mapping[str, Option], request: Request) -> dict[str, Any]:
    """The request's options as keyword arguments, with values of the declared types."""
    return cast(dict[str, Any], resolve_options(name, declared, request.options))


SYNTHETIC_OPTIONS = {
    "scale": Option(0.35, "class sizes as a share of RAF-DB's"),
    "classes": Option(7, "7, or 8 with contempt", (7, 8)),
    "size": Option(48, "pixels a side, 16 to 512"),
    "seed": Option(0, "another seed draws other faces"),
}

READERS = {
    reader.name: reader
    for reader in (
        Reader(
            "ferplus",
            "FERPlus: 35,710 grey 48 x 48 faces, ten votes each; needs your copy of FER2013",
            ferplus.OPTIONS,
            "FERBENCH_FERPLUS_ROOT",
            _prepare_ferplus,
            _open_ferplus,
        ),
        listed_reader(RAFDB_SET),
        listed_reader(AFFECTNET7),
        listed_reader(AFFECTNET8),
        listed_reader(SFEW_SET),
        listed_reader(CKPLUS_SET),
        listed_reader(FER2013_SET),
        listed_reader(ADIENCE_SET),
        listed_reader(CASIA_WEBFACE_SET),
        listed_reader(FOLDER_SET),
        listed_reader(CSV_SET),
        listed_reader(FACES_SET),
        Reader(
            "synthetic",
            "cartoon faces drawn by ferbench: no download, for the demo and for trying things out",
            SYNTHETIC_OPTIONS,
            None,
            _prepare_synthetic,
            _open_synthetic,
        ),
    )
}
