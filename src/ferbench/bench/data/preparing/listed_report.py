"""The report on a prepared copy of a listed data set: counts against the published, duplicates, subjects, files."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from ferbench.bench.data.faceset import PARTS, FaceSet
from ferbench.bench.data.preparing.cache import Prepared
from ferbench.bench.data.preparing.checks.copies import near_notes
from ferbench.bench.data.preparing.checks.verify import count_table
from ferbench.bench.data.reading.listing import Labelling
from ferbench.bench.data.reading.report import CountRow, LabelFileNote, PreparedReport


def listed_report(prepared: Prepared, faces: FaceSet, labelling: Labelling, *, cached: bool) -> PreparedReport:
    """What `ferbench prepare` prints of a listed data set under the options of `faces`."""
    meta, decoded = prepared.meta, prepared.meta["decoded"]
    return PreparedReport(
        dataset=faces.name,
        root=meta["root"],
        layout=meta["layout"],
        options=faces.options,
        classes=faces.classes,
        images=len(faces.images),
        train=len(faces.train),
        test=len(faces.test),
        counts_of="images",
        counts=_counts(prepared, faces),
        label_files=tuple(LabelFileNote(**file) for file in meta["label_files"]),
        differences=(*meta["differences"], *decoded["differences"]),
        notices=(
            *prepared.checked,
            *meta["notes"],
            *decoded["notes"],
            *labelling.notes,
            *duplicate_notes(prepared, faces),
            *near_notes(prepared.index, faces),
            *subject_notes(faces),
        ),
        decoded_s=decoded["seconds"],
        cached=cached,
        fingerprint=faces.fingerprint,
        pixels=faces.pixels,
        folder=str(prepared.folder),
        warnings=(*meta["warnings"], *decoded["warnings"]),
        unreadable=tuple(decoded["unreadable"]),
        sizes=decoded["sizes"],
        decoding=decoded["form"],
    )


def _counts(prepared: Prepared, faces: FaceSet) -> tuple[CountRow, ...]:
    """Labelled, readable images per class and part, the published number beside those classes that have one."""
    readable = prepared.index["readable"]
    found = count_table(np.where(readable, faces.labels, -1), faces.parts, len(faces.classes))
    expected = prepared.meta["expected"]
    rows = []
    for name, counts in zip(faces.classes, found, strict=True):
        wanted = expected.get(name, [None] * len(PARTS))
        published = tuple(int(count if known is None else known) for count, known in zip(counts, wanted, strict=True))
        rows.append(CountRow(name, tuple(map(int, counts)), published if name in expected else None))
    without = readable & (faces.labels < 0)
    if without.any():
        parts = np.bincount(faces.parts[without], minlength=len(PARTS))
        rows.append(CountRow("without a label", tuple(map(int, parts))))
    return tuple(rows)


def duplicate_notes(prepared: Prepared, faces: FaceSet) -> list[str]:
    """Images that are the same pixel by pixel: how many, between which parts, and with which conflicting labels."""
    same = prepared.index["same_pixels"]
    sizes = np.bincount(same, minlength=len(same))
    groups = int((sizes > 1).sum())
    if groups == 0:
        return ["no two images are pixel-identical"]
    within = [np.unique(same[faces.parts == code]) for code in range(len(PARTS))]
    across = [
        f"{len(shared):,} in both {PARTS[one]} and {PARTS[other]}"
        for one, other in combinations(range(len(PARTS)), 2)
        if len(shared := np.intersect1d(within[one], within[other]))
    ]
    labelled = faces.labels >= 0
    pairs = np.unique(np.stack([same[labelled], faces.labels[labelled]]), axis=1)
    conflicting = int((np.bincount(pairs[0], minlength=1) > 1).sum())
    leaked = int(np.isin(same[faces.test], same[faces.train]).sum())
    return [
        f"{groups:,} groups of pixel-identical images, {int((sizes[sizes > 1] - 1).sum()):,} redundant images"
        + (f"; {', '.join(across)}" if across else ", none across parts")
        + f"; {conflicting:,} groups carry conflicting labels",
        f"under these options {leaked:,} of {len(faces.test):,} test images are in the training set pixel by pixel"
        + (" (dedupe=cross removes them from training)" if leaked else ""),
    ]


def subject_notes(faces: FaceSet) -> list[str]:
    """People who are in the training and in the test set."""
    if faces.subjects is None:
        return []
    known = faces.subjects >= 0
    train, test = (np.unique(faces.subjects[some[known[some]]]) for some in (faces.train, faces.test))
    both = np.intersect1d(train, test)
    if not len(both):
        return ["no person is in both the training and the test set"] if len(test) else []
    return [f"{len(both):,} of {len(test):,} people in the test set are in the training set as well"]
