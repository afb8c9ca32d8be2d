"""Runs of `ferbench train` as tables of their own: a table for each data set, a column for each split, a row for each
method with its options and recipe. They are put into the form of a protocol, so that all that is done with a paper's
table is done with them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ferbench.bench.tables.counting.counted import Run
from ferbench.bench.tables.counting.stored import StoredRun, read_stored
from ferbench.bench.training.recording import records
from ferbench.protocols import Cell, Column, Protocol, Row, Table

OWN = "yours"
METRICS = ("overall", "mean")


def own_runs(results: Path) -> tuple[Protocol | None, dict[str, list[Run]]]:
    """The finished runs that were made for no protocol, as a protocol and the runs of each of its cells.

    None where there are no such runs. Runs that cannot be read are left out: the board lists them with the reason.
    """
    found = sorted(_read(results), key=lambda one: (one.finished_at, one.name))
    if not found:
        return None, {}
    tables: list[Table] = []
    runs: dict[str, list[StoredRun]] = {}
    by_data = _grouped(found, _data)
    ids = _named(by_data, lambda found: _data_name(found[0].spec))
    for key, of_data in by_data.items():
        table, cells = _table(ids[key], of_data)
        tables.append(table)
        runs |= cells
    protocol = Protocol(
        paper=OWN, title="Runs of `ferbench train`", citation="", version=1, recipes={}, presets={}, datasets={},
        splits={}, tables=tuple(tables),
    )  # fmt: skip
    placed = {
        f"{OWN}/{table.id}/{row.id}/{column.id}": Cell(protocol, table, row, column)
        for table in tables for row in table.rows for column in table.columns
    }  # fmt: skip
    return protocol, {name: [_run(placed[name], one) for one in group] for name, group in runs.items()}


def _read(results: Path) -> Iterable[StoredRun]:
    for path in sorted(results.glob("runs/*/record.json")):
        try:
            stored = read_stored(path.parent)
            if stored and not stored.spec.get("made_for") and stored.name == records.run_id(stored.spec):
                yield stored
        except (records.RunError, KeyError, TypeError, AttributeError, ValueError):
            continue


def _run(cell: Cell, found: StoredRun) -> Run:
    setting = str(found.spec["variant"]), str(found.spec["preset"]), int(found.spec["seed"])
    return Run(
        found.name, cell, *setting, found.metrics, spec=found.spec, record=found.record, finished_at=found.finished_at,
        code=found.code,
    )  # fmt: skip


def _table(name: str, found: Sequence[StoredRun]) -> tuple[Table, dict[str, list[StoredRun]]]:
    """The table of one data set, and its runs by the names of their cells."""
    by_row, by_column = _grouped(found, _row), _grouped(found, _column)
    rows = _named(by_row, lambda found: str(found[0].spec["method"]))
    columns = _named(by_column, lambda found: _split_name(found[0].spec["split"]))
    labels = _row_labels({key: group[0].spec for key, group in by_row.items()})
    table = Table(
        id=name,
        caption=f"your runs on {_data_name(found[0].spec)}",
        source="",
        metrics=METRICS,
        seeds=(),
        rows=tuple(Row(rows[key], labels[key], method=str(group[0].spec["method"])) for key, group in by_row.items()),
        columns=tuple(
            Column(columns[key], columns[key].replace("_", " "), dataset=_data_name(group[0].spec))
            for key, group in by_column.items()
        ),
    )
    cells: dict[str, dict[int, StoredRun]] = defaultdict(dict)
    for one in found:  # the newest of a seed stands
        cells[f"{OWN}/{name}/{rows[_row(one.spec)]}/{columns[_column(one.spec)]}"][int(one.spec["seed"])] = one
    return table, {cell: list(by_seed.values()) for cell, by_seed in cells.items()}


def _grouped(found: Iterable[StoredRun], key: Callable[[Mapping[str, Any]], str]) -> dict[str, list[StoredRun]]:
    groups: dict[str, list[StoredRun]] = defaultdict(list)
    for one in found:
        groups[key(one.spec)].append(one)
    return groups


def _named(groups: Mapping[str, list[StoredRun]], name: Callable[[list[StoredRun]], str]) -> dict[str, str]:
    """A name for each group, with a number where an earlier one has it."""
    names: dict[str, str] = {}
    for key, found in groups.items():
        base = name(found)
        taken = sum(1 for other in names.values() if other == base or other.startswith(f"{base}-"))
        names[key] = base if not taken else f"{base}-{taken + 1}"
    return names


def _row_labels(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The method, and what tells its rows of one variant and preset from each other."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key, spec in specs.items():
        alike[tuple(str(spec[part]) for part in ("method", "variant", "preset"))].append(key)
    labels = {}
    for keys in alike.values():
        flat = {
            key: {**specs[key]["options"], **specs[key]["recipe"], "after": specs[key].get("after")} for key in keys
        }
        names = list(dict.fromkeys(name for settings in flat.values() for name in settings))
        differing = [name for name in names if len({_plain(flat[key].get(name)) for key in keys}) > 1]
        for key in keys:
            told = [f"{name}={flat[key].get(name)}" for name in differing[:4] if name != "after"]
            told += ["after another run"] if flat[key]["after"] and "after" in differing else []
            labels[key] = " ".join([str(specs[key]["method"]), *told])
    return labels


def _row(spec: Mapping[str, Any]) -> str:
    return _plain([spec["method"], spec["variant"], spec["preset"], spec["options"], spec["recipe"], spec.get("after")])


def _column(spec: Mapping[str, Any]) -> str:
    return _plain([_without_fingerprint(spec["split"]), spec.get("unlabelled"), spec.get("candidates")])


def _data(spec: Mapping[str, Any]) -> str:
    return _plain([_without_fingerprint(spec[part]) for part in ("dataset", "test")])


def _data_name(spec: Mapping[str, Any]) -> str:
    return ">".join(dict.fromkeys(str(spec[part]["reader"]) for part in ("dataset", "test")))


def _split_name(split: Mapping[str, Any]) -> str:
    numbers = [f"{value:g}" for value in split["parameters"].values() if isinstance(value, int | float) and value]
    return "-".join([str(split["kind"]), *numbers])


def _without_fingerprint(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "fingerprint"}


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True)
