"""Face boxes of FERPlus: its label.csv has the whole image as every box, so they come from the user or a detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.preparing.cache import Prepared
from ferbench.bench.data.preparing.faces.face_boxes import Faces, find_faces
from ferbench.bench.data.reading.listing import Listing
from ferbench.bench.data.reading.reader import Progress


def ferplus_faces(prepared: Prepared, faces: str, *, threads: int = 2, progress: Progress | None = None) -> Faces:
    """Boxes in the pixels of a prepared copy from `faces`, a value of the option; the images stay as they are.

    What a detector finds is kept in the cache, so that only the first call waits for it. A faces.csv lies in the root
    and names images as the data set does. Raises DataError.
    """

    def read(row: int) -> NDArray[np.uint8]:
        return np.asarray(prepared.images[row, :, :, 0])

    listing = Listing(
        dataset=str(prepared.meta["dataset"]),
        root=Path(str(prepared.meta["root"])),
        layout=str(prepared.meta["layout"]),
        ids=prepared.index["ids"],
        parts=prepared.index["parts"],
        labels=np.full(len(prepared.images), -1, np.int64),
        classes=(),
        read=read,
    )
    key = str(prepared.meta["source_sha256"])
    return find_faces(listing, faces, prepared.folder.parent, key, threads, progress, close_up=True)
