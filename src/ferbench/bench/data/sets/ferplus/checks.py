"""FERPlus against what is known of it: class counts per label rule, repeated names, pixel-identical images.

`counts.csv` holds the counts of Microsoft's label files per source, rule and part, one count per named row.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError, FaceSet
from ferbench.bench.data.reading.report import CountRow
from ferbench.bench.data.sets.ferplus.csv import VoteTable
from ferbench.bench.data.sets.ferplus.index import Index, image_votes, row_votes, sources_in
from ferbench.bench.data.sets.ferplus.labels import CLASSES, COLUMNS, RULES, decide
from ferbench.bench.data.sets.ferplus.source import SOURCES

Counts = NDArray[np.int64]  # [10, 3]: COLUMNS x PARTS


@cache
def published_counts(source: str, rule: str) -> Counts:
    """[10, 3] named rows of Microsoft's files per column decided on and part."""
    counts = np.zeros((len(COLUMNS), len(PARTS)), dtype=np.int64)
    text = files("ferbench.bench.data.sets.ferplus").joinpath("counts.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        if (row["source"], row["rule"]) == (source, rule):
            counts[COLUMNS.index(row["class"])] = [int(row[part]) for part in PARTS]
    return counts


def row_counts(index: Index, source: str, rule: str) -> Counts:
    """[10, 3] named rows per column decided on and part; a name given in two rows counts twice."""
    images, votes = row_votes(index, source)
    return _counts(decide(votes, rule).labels, index["parts"][images])


def image_counts(index: Index, source: str, rule: str) -> Counts:
    """[10, 3] images per column decided on and part; an image that no row names is unknown."""
    return _counts(decide(image_votes(index, source), rule).labels, index["parts"])


def _counts(labels: NDArray[np.int64], parts: NDArray[np.int8]) -> Counts:
    flat = np.bincount(labels * len(PARTS) + parts, minlength=len(COLUMNS) * len(PARTS))
    return flat.reshape(len(COLUMNS), len(PARTS)).astype(np.int64)


def count_table(index: Index, source: str, rule: str) -> tuple[CountRow, ...]:
    """The report's table: rows per class, "unknown" and "NF" beside the published ones, then totals and images."""
    found, published = row_counts(index, source, rule), published_counts(source, rule)
    lines = [
        (name, found[column], published[column]) for column, name in enumerate(COLUMNS)
    ] + [
        (f"kept, {kept} classes", found[:kept].sum(axis=0), published[:kept].sum(axis=0)) for kept in (len(CLASSES), 7)
    ]  # fmt: skip
    table = [CountRow(name, _ints(here), _ints(known)) for name, here, known in lines]
    unique = image_counts(index, source, rule)
    table += [
        CountRow(f"kept, {kept} classes, unique names", _ints(unique[:kept].sum(axis=0))) for kept in (len(CLASSES), 7)
    ]
    return tuple(table)


def count_differences(index: Index) -> list[str]:
    """Every count that is not the published one, over all label files there and all rules; one line each."""
    lines = []
    for source in sources_in(index):
        for rule in RULES:
            found, published = row_counts(index, source, rule), published_counts(source, rule)
            for part, name in enumerate(PARTS):
                swapped = sorted(found[:8, part]) == sorted(published[:8, part])
                lines += [
                    f"{source} {rule} {name} {COLUMNS[column]}: {found[column, part]:,} rows, published "
                    f"{published[column, part]:,}" + (" (columns swapped?)" if swapped else "")
                    for column in np.flatnonzero(found[:, part] != published[:, part])
                ]
    return lines


def check_columns(tables: Mapping[str, list[VoteTable]], folders: tuple[str, ...]) -> None:
    """label.csv has no header: where fer2013new.csv is there too, most images must have the same votes in both."""
    if len(tables) < len(SOURCES):
        return
    reference = tables["new_csv"][0]
    known = {
        (part, name): votes.tobytes() for (part, name), votes in zip(reference.keys(), reference.votes, strict=True)
    }
    for part, table in enumerate(tables["label_csv"]):
        common = [(known[part, name], row) for row, name in enumerate(table.names) if (part, name) in known]
        agreeing = sum(votes == table.votes[row].tobytes() for votes, row in common)
        if agreeing < 0.5 * len(common):
            raise DataError(
                f"{folders[part]}/label.csv: only {agreeing} of {len(common)} rows have the votes of fer2013new.csv; "
                f"its columns must be name, box, {', '.join(COLUMNS)}"
            )


def duplicate_notices(index: Index, data: FaceSet) -> list[str]:
    """Pixel-identical images: how many, across which parts, and how many are in both training and test set."""
    same = index["same_pixels"]
    sizes = np.bincount(same, minlength=len(same))
    groups = int((sizes > 1).sum())
    if groups == 0:
        return []
    by_part = [same[data.parts == part] for part in range(len(PARTS))]
    in_train = [int(np.isin(other, by_part[0]).sum()) for other in by_part[1:]]
    leaked = int(np.isin(same[data.test], same[data.train]).sum())
    pairs = np.unique(np.stack([same, data.labels])[:, data.labels >= 0], axis=1)
    conflicting = int((np.bincount(pairs[0]) > 1).sum())
    return [
        f"{groups:,} groups of pixel-identical images, {int((sizes[sizes > 1] - 1).sum()):,} redundant images; "
        f"{in_train[1]:,} test and {in_train[0]:,} valid images equal a train image",
        f"under these options {leaked:,} of {len(data.test):,} test images are in the training set pixel by pixel "
        f"(dedupe=cross removes them from training); {conflicting:,} groups carry conflicting labels",
    ]


def _ints(values: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
