"""FERPlus as a reader: from a request to its report or its face set. What does the work is imported when it is due."""

from __future__ import annotations

from pathlib import Path

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.reading.reader import Reader, Request, arguments
from ferbench.bench.data.reading.report import PreparedReport
from ferbench.bench.data.sets.ferplus.options import NAME, OPTIONS


def _prepare(request: Request) -> PreparedReport:
    from ferbench.bench.data.sets.ferplus.prepare import prepare_ferplus

    if request.root is None:
        raise DataError("ferplus needs your copy of the files: run `ferbench prepare ferplus --root PATH`")
    return prepare_ferplus(
        request.root,
        request.cache,
        options=request.options,
        partial=request.partial,
        verify=request.verify,
        threads=request.threads,
        progress=request.progress,
    )


def _open(request: Request) -> FaceSet:
    from ferbench.bench.data.preparing.cache import load_prepared, recall
    from ferbench.bench.data.preparing.checks.watch import hold_unchanged
    from ferbench.bench.data.sets.ferplus.prepare import prepare_ferplus, prepared_folder
    from ferbench.bench.data.sets.ferplus.reader import open_ferplus
    from ferbench.bench.data.sets.ferplus.source import find_source

    if request.root is None:
        folder = recall(NAME, request.cache)
        if folder is None:
            raise DataError("ferplus is not prepared: run `ferbench prepare ferplus --root PATH`")
        hold_unchanged(load_prepared(folder, NAME).meta, NAME)
    else:
        folder = prepared_folder(find_source(request.root), request.cache)
        if not folder.is_dir():
            _hold_unchanged_since(request.root, recall(NAME, request.cache))
            prepare_ferplus(request.root, request.cache, progress=request.progress)
    chosen = arguments(NAME, OPTIONS, request)
    return open_ferplus(folder, **chosen, progress=request.progress)


def _hold_unchanged_since(root: Path, last: Path | None) -> None:
    """DataError where the copy prepared last was made from files at `root` that are others now."""
    from ferbench.bench.data.preparing.cache import load_prepared
    from ferbench.bench.data.preparing.checks.watch import hold_unchanged

    try:
        meta = load_prepared(last, NAME).meta if last is not None else {}
    except DataError:
        return
    if meta.get("root") == str(root.absolute()):
        hold_unchanged(meta, NAME)


FERPLUS = Reader(
    NAME,
    "FERPlus: 35,710 grey 48 x 48 faces, ten votes each; needs your copy of FER2013",
    OPTIONS,
    "FERBENCH_FERPLUS_ROOT",
    _prepare,
    _open,
)
