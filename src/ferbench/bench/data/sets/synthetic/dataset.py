"""Synthetic faces as a reader: no files, so that preparing them is drawing them."""

from __future__ import annotations

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.reading.reader import Reader, Request, arguments
from ferbench.bench.data.reading.report import PreparedReport, describe
from ferbench.validation import Option

OPTIONS = {
    "scale": Option(0.35, "class sizes as a share of RAF-DB's"),
    "classes": Option(7, "7, or 8 with contempt", (7, 8)),
    "size": Option(48, "pixels a side, 16 to 512"),
    "seed": Option(0, "another seed draws other faces"),
}


def _open(request: Request) -> FaceSet:
    from ferbench.bench.data.sets.synthetic.reader import synthetic  # not before faces are due

    return synthetic(**arguments("synthetic", OPTIONS, request), cache=request.cache)


def _prepare(request: Request) -> PreparedReport:
    return describe(_open(request), layout="drawn by ferbench, no files needed")


SYNTHETIC = Reader(
    "synthetic",
    "cartoon faces drawn by ferbench: no download, for the demo and for trying things out",
    OPTIONS,
    None,
    _prepare,
    _open,
)
