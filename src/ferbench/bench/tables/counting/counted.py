"""Which finished runs count for which cells: a run serves every cell with its settings, whatever it was made for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from ferbench.bench.data.faceset import DataError
from ferbench.bench.files import reason
from ferbench.bench.tables.counting.distinct import merged_by
from ferbench.bench.tables.counting.extras import read_extras
from ferbench.bench.tables.counting.stored import StoredRun, read_stored
from ferbench.bench.tables.settings import DATA, folds_of, same_run, settings
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.standing import ASIDE
from ferbench.methods import MethodError, Variant
from ferbench.protocols import Cell, Protocol, cells, load_protocol, protocol_names

Metrics = Mapping[str, Mapping[str, float]]  # selection -> metric -> percent


@dataclass(frozen=True)
class Run:
    """A finished run that counts for `cell`."""

    id: str
    cell: Cell
    variant: str
    preset: str
    seed: int
    metrics: Metrics
    pixels: tuple[str, ...] = ()  # of the images trained, tested and drawn from, as far as they are named
    spec: Mapping[str, Any] = field(default_factory=dict, repr=False)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)  # both empty in a mean over columns
    finished_at: str = ""  # UTC
    code: str = ""  # of the method; "" where the record is older than that


@dataclass(frozen=True)
class Ignored:
    """A finished run made for a protocol that does not count, and why."""

    run_id: str
    reason: str
    paper: str = field(default="", compare=False)  # that it was made for, where that can be read


def counted_runs(results: Path, protocols: Mapping[str, Protocol]) -> tuple[list[Run], list[Ignored]]:
    """The run of each cell, variant, preset and seed that was finished last; and the runs that do not count.

    A record says when it was finished; of those that do not say, and are thus older, the last by name counts.
    """
    versions = {name: load_protocol(name).version for name in protocol_names()}
    versions |= {name: protocol.version for name, protocol in protocols.items()}
    newest: dict[tuple[str, str, str, int], list[Run]] = {}
    ignored = []
    found, unread = _stored(results)
    ignored += unread
    by_settings = _cells_by_settings(protocols.values(), _made(found))
    for stored in sorted(found, key=lambda stored: (stored.finished_at, stored.name)):
        runs = _serving(stored, results / "runs" / stored.name, protocols, versions, by_settings)
        if isinstance(runs, Ignored):
            ignored.append(replace(runs, paper=_paper(stored.spec)))
        elif runs:
            # Runs with one cell in common have the same settings, so they share all their cells.
            first = runs[0]
            key = (first.cell.id, first.variant, first.preset, first.seed)
            if key in newest:
                older = newest[key][0]
                ignored.append(Ignored(older.id, _superseded(older, first), older.cell.protocol.name))
            newest.pop(key, None)  # so that they stand in the order of time
            newest[key] = runs
    counted, others = _of_one_copy([run for runs in newest.values() for run in runs])
    return counted, ignored + others


def _of_one_copy(runs: Sequence[Run]) -> tuple[list[Run], list[Ignored]]:
    """The runs without those whose cell, variant and preset have a newer run on other pixels: never averaged."""
    latest = {(run.cell.id, run.variant, run.preset): run for run in runs}
    kept, others = [], {}
    for run in runs:
        last = latest[run.cell.id, run.variant, run.preset]
        if run.pixels == last.pixels:
            kept.append(run)
        else:
            reason = f"made on other images than {last.id}: same names, other pixels"
            others[run.id] = Ignored(run.id, reason, run.cell.protocol.name)
    return kept, list(others.values())


def _stored(results: Path) -> tuple[list[StoredRun], list[Ignored]]:
    """Every finished run of the folder, and what cannot be read."""
    found, unread = [], []
    for path in results.glob("runs/*/record.json"):
        try:
            if stored := read_stored(path.parent):
                found.append(stored)
        except records.RunError as error:
            unread.append(Ignored(path.parent.name, str(error)))
    return found, sorted(unread, key=lambda ignored: ignored.run_id)


def _superseded(old: Run, new: Run) -> str:
    same = "with the same settings and seed"
    if not new.finished_at:
        return f"{new.id} has {same}, and neither says when it was finished: the last by name counts"
    when = f"{new.id}, {same}, was finished on {new.finished_at}"
    return when + (f", by code {new.code} where this is by {old.code or 'unknown'}" if old.code != new.code else "")


def runs_of(cell: Cell, by_cell: Mapping[str, Sequence[Run]]) -> list[Run]:
    """The runs of a cell; for a mean over columns one for each setting and seed that all of them have."""
    if not cell.column.mean_of:
        return list(by_cell.get(cell.id, ()))
    head = cell.id.removesuffix(cell.column.id)
    parts: dict[tuple[str, str, int], list[Run]] = defaultdict(list)
    for run in (run for name in cell.column.mean_of for run in by_cell.get(head + name, ())):
        parts[(run.variant, run.preset, run.seed)].append(run)
    return [_mean(cell, runs) for runs in parts.values() if len(runs) == len(cell.column.mean_of)]


def _mean(cell: Cell, runs: Sequence[Run]) -> Run:
    """One run in place of several, with the means of the metrics that all have; its id is theirs, parted by spaces."""
    first = runs[0]
    metrics = {
        selection: {
            name: fmean(run.metrics[selection][name] for run in runs)
            for name in values
            if all(name in run.metrics.get(selection, {}) for run in runs)
        }
        for selection, values in first.metrics.items()
    }
    return Run(" ".join(run.id for run in runs), cell, first.variant, first.preset, first.seed, metrics)


def _serving(
    stored: StoredRun,
    folder: Path,
    asked: Container[str],
    versions: Mapping[str, int],
    by_settings: Mapping[str, list[Cell]],
) -> list[Run] | Ignored:
    """A run for each cell it serves; none for one of no protocol that is asked for."""
    name, spec = stored.name, stored.spec
    try:
        if name.partition(ASIDE)[0] != (named := records.run_id(spec)) and _dated(stored.record):
            return Ignored(name, f"its settings are those of {named}: the folder was renamed, or copied and changed")
        key = same_run(spec)
        merged = merged_by(spec["preset"], by_settings.get(key, []))
        served = [cell for cell in by_settings.get(key, []) if cell.id not in merged]
        made_for = spec.get("made_for")
        if made_for:
            protocol, version = made_for["protocol"], made_for["version"]
            if protocol not in versions:
                return Ignored(name, f"no protocol '{protocol}' here")
            if not served and protocol not in asked:
                return []
            if version != versions[protocol]:
                return Ignored(name, f"stale: made under version {version} of {protocol}")
            if merged and not served:
                return Ignored(name, merged.get(made_for["cell"], next(iter(merged.values()))))
            if key in by_settings and not served:
                return []  # a run that others start from, with no number of its own
            if not served:
                return Ignored(name, f"its settings are no longer those of {made_for['cell']} or any other cell")
        metrics = stored.metrics
        metrics["last"] |= read_extras(folder)
        setting = spec["variant"], spec["preset"], spec["seed"]
        pixels = tuple(str(spec[part].get("pixels", "")) for part in DATA if isinstance(spec[part], dict))
        return [
            Run(
                name, cell, *setting, _by_rule(metrics, cell.row.rule), pixels, spec=spec, record=stored.record,
                finished_at=stored.finished_at, code=stored.code,
            )
            for cell in served
        ]  # fmt: skip
    except records.RunError as error:
        return Ignored(name, str(error))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        return Ignored(name, f"spec.json lacks or garbles {reason(error)}")


def _dated(record: Mapping[str, Any]) -> bool:
    """Whether a record is of a form that is held to its folder's name; those without answers are marked anyway."""
    return "format" in record or "evidence" in record


def _by_rule(metrics: Metrics, rule: str) -> Metrics:
    """The metrics that a row names: those of its inference rule, or the first rule's, as they are."""
    if not rule:
        return metrics
    head = f"{rule}/"
    return {
        selection: {name.removeprefix(head): value for name, value in values.items() if name.startswith(head)}
        for selection, values in metrics.items()
    }


Kind = tuple[object, ...]  # method, preset, reader, kind of split


def _kind(cell: Cell, preset: str) -> Kind:
    return (cell.method, preset, cell.data(cell.dataset).reader, cell.split.kind)


def _paper(spec: Mapping[str, Any]) -> str:
    """The protocol that a run was made for."""
    made_for = spec.get("made_for")
    return str(made_for["protocol"]) if made_for else ""


def _made(found: Iterable[StoredRun]) -> set[Kind]:
    """The kinds of the runs there are: cells of others need not be looked at."""
    specs = [stored.spec for stored in found]
    return {(spec["method"], spec["preset"], spec["dataset"]["reader"], spec["split"]["kind"]) for spec in specs}


def _cells_by_settings(protocols: Iterable[Protocol], made: Container[Kind]) -> dict[str, list[Cell]]:
    """Cells by what their runs' settings must be, for runs of a kind that were `made`."""
    index: dict[str, list[tuple[Cell, bool]]] = defaultdict(list)  # and whether it is the cell's own variant
    for protocol in protocols:
        for cell in cells(protocol):
            for preset in protocol.presets if cell.method and not cell.published_only else ():
                try:
                    known = get_args(Variant) if _kind(cell, preset) in made else ()
                    keys = {same_run(settings(cell, preset, 0, variant)) for variant in known}
                    own = same_run(settings(cell, preset, 0)) if known else ""
                except (DataError, MethodError):
                    break  # its method is not there yet, so neither are runs of it
                for key in keys:
                    index[key].append((cell, key == own))
                scorers = cell.scored_by(folds_of(settings(cell, preset, 0))) if cell.candidates else ()
                for scorer in scorers:
                    if _kind(scorer, preset) in made:
                        index[same_run(settings(scorer, preset, 0))]  # without a cell of its own, or some row's
                before = cell.before
                while before:
                    for variant in get_args(Variant) if _kind(before, preset) in made else ():
                        index[same_run(settings(before, preset, 0, variant))]  # without a cell of its own
                    before = before.before
    return {key: _by_own_variant(found) for key, found in index.items()}


def _by_own_variant(found: Sequence[tuple[Cell, bool]]) -> list[Cell]:
    """The cells a run serves; of a column that has rows of the run's variant, these rows alone.

    A table may hold one method in two variants: the row of the one, asked for in the other, is no row of its own.
    """
    place = [(cell.protocol.name, cell.table.id, cell.column.id) for cell, _ in found]
    own = {where for where, (_, mine) in zip(place, found, strict=True) if mine}
    return [cell for where, (cell, mine) in zip(place, found, strict=True) if mine or where not in own]
