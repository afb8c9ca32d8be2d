"""The data sets ferbench can read, by name: one line each. None is imported before it is asked for.

The command line and the protocols both come through here, so that a misspelt data set, option or value is refused in
the same words wherever it was written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.reading.reader import Progress, Reader, Request
from ferbench.bench.data.reading.report import PreparedReport
from ferbench.register import Register
from ferbench.validation import Value, resolve_options

_PLACES = {
    "ferplus": "ferplus.dataset:FERPLUS",
    "rafdb": "rafdb.reader:RAFDB_SET",
    "affectnet7": "affectnet.reader:AFFECTNET7",
    "affectnet8": "affectnet.reader:AFFECTNET8",
    "sfew": "sfew.reader:SFEW_SET",
    "ckplus": "ckplus.reader:CKPLUS_SET",
    "fer2013": "fer2013.reader:FER2013_SET",
    "adience": "adience.reader:ADIENCE_SET",
    "casia_webface": "casia_webface.reader:CASIA_WEBFACE_SET",
    "folder": "own.folder:FOLDER_SET",
    "csv": "own.csv_table:CSV_SET",
    "faces": "own.faces:FACES_SET",
    "synthetic": "synthetic.dataset:SYNTHETIC",
}


class _Readers(Register[Reader]):
    """Data sets on the listing framework declare a ListedSet, which becomes a Reader here.

    The framework is imported when one is prepared or opened: a list of data sets does not wait for it.
    """

    def loaded(self, thing: Any) -> Reader:
        if isinstance(thing, Reader):
            return thing

        def prepare(request: Request) -> PreparedReport:
            return _framework(thing).prepare(request)

        def open_set(request: Request) -> FaceSet:
            return _framework(thing).open(request)

        return Reader(thing.name, thing.summary, thing.options, thing.root_env, prepare, open_set)


def _framework(thing: Any) -> Reader:
    from ferbench.bench.data.preparing.listed import listed_reader

    return listed_reader(thing)


READERS = _Readers("data set", {name: f"{__package__}.{place}" for name, place in _PLACES.items()}, DataError)


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
    reader = READERS.find(name)
    resolve_options(name, reader.options, options, DataError)
    return reader.open(Request(options, _root(root, reader), cache, progress=progress))


def prepare_dataset(
    name: str,
    options: Mapping[str, Value],
    *,
    root: Path | None = None,
    cache: Path,
    partial: bool = False,
    verify: bool = False,
    threads: int = 2,
    progress: Progress | None = None,
) -> PreparedReport:
    """Read, verify and decode the data set `name` into `cache`, and report on it under `options`. Raises DataError.

    partial: accept a copy with missing images or other counts than the published ones
    verify: hold a prepared copy that is there against the digests of its images, however large it is
    threads: images decoded at once; progress: called with (images done, images in all)
    """
    reader = READERS.find(name)
    resolve_options(name, reader.options, options, DataError)
    root = _root(root, reader)
    return reader.prepare(Request(options, root, cache, partial, verify, threads, progress))


def _root(given: Path | None, reader: Reader) -> Path | None:
    """The root given, else the one in the reader's environment variable; ~ is the home folder in either."""
    value = given or (os.environ.get(reader.root_env) if reader.root_env else None)
    return Path(value).expanduser() if value else None
