"""What `ferbench list` prints: lines of text, for a terminal of some width or, without one, never cut short.

Nothing here imports a method; only the card of one does.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ferbench.bench.tables.planning.hours import table_hours
from ferbench.bench.tables.planning.implemented import COMPARABLE, implemented
from ferbench.bench.tables.planning.lines import INDENT, cut
from ferbench.bench.tables.planning.measured import Known, on_a_gpu
from ferbench.errors import UserError
from ferbench.methods import LEARNERS, METHODS, PLUG_INS
from ferbench.methods.register import PARTIAL_LABEL
from ferbench.protocols import Cell, cells, load_protocol, protocol_names
from ferbench.protocols.schema import Table


def methods(width: int | None) -> Iterable[str]:
    """A line per method: name, kind, the first sentence of its module."""
    for name in METHODS:
        yield cut(f"{name:<19} {_kind(name):<10} {_summary(name)}", width)
    yield cut("`ferbench list methods NAME` shows options, variants and tables", width)


def methods_card(name: str) -> Iterable[str]:
    """All about one method. Raises MethodError for an unknown name."""
    from ferbench.bench.tables.planning.step_cost import step_cost

    method = METHODS.find(name)
    yield f"{name}: {_summary(name)}"
    yield f"paper: {method.paper}"
    yield f"kind: {_kind(name)}" + ("; it wraps the learner that learner=NAME names" if name in PLUG_INS else "")
    yield f"images per step (B labelled, U unlabelled): {step_cost(name)}"
    yield f"tables: {', '.join(tables_with().get(name, ())) or 'none'}"
    yield "options (the paper's defaults):"
    yield from (f"{INDENT}{field.name} = {field.default}" for field in fields(method.Options))
    for variant, changed in (("released", method.released), ("usb", method.usb)):
        if changed:
            yield f"variant {variant} sets: " + ", ".join(f"{key} = {value}" for key, value in changed.items())
    yield ""
    yield from textwrap.dedent(method.Options.__doc__ or "").strip().splitlines()


def protocols(width: int | None, results: Path) -> Iterable[str]:
    """Two lines per table: what it holds and would cost, by the runs in `results` where there are any, its caption."""
    times = on_a_gpu(results)
    for name in protocol_names():
        protocol = load_protocol(name)
        for table in protocol.tables:
            needed = [cell for cell in cells(protocol, table.id) if not cell.published_only]
            yield cut(f"{name}/{table.id:<10} {_contents(table, needed, times)}", width)
            yield cut(f"{INDENT}{table.caption}", width)
    yield cut(f"GPU-hours: {_source(times)}", width)
    yield cut("`ferbench list protocols PAPER` shows the rows and columns to choose from", width)


def protocols_card(name: str, results: Path) -> Iterable[str]:
    """The rows and columns of one paper's tables, as `reproduce` takes them, and what each row would cost."""
    protocol, times = load_protocol(name), on_a_gpu(results)
    yield f"{protocol.paper}"
    yield f"presets: {', '.join(protocol.presets)}"
    for table in protocol.tables:
        yield f"{protocol.name}/{table.id}: {table.caption}"
        yield f"{INDENT}rows: {', '.join(row.id for row in table.rows)}"
        yield f"{INDENT}columns: {', '.join(column.id for column in table.columns)}"
        rows: dict[str, list[Cell]] = {}
        for cell in cells(protocol, table.id):
            if not cell.published_only:
                rows.setdefault(cell.row.id, []).append(cell)
        if costs := [f"{row} {hours}" for row, chosen in rows.items() if (hours := _hours(chosen, times))]:
            yield f"{INDENT}GPU-hours by row ({_source(times)}): {', '.join(costs)}"


@cache
def tables_with() -> dict[str, tuple[str, ...]]:
    """The tables (`PAPER/TABLE`) in whose rows each method stands, by itself or as a plug-in's learner."""
    found: dict[str, dict[str, None]] = {}
    for protocol in map(load_protocol, protocol_names()):
        for table in protocol.tables:
            for row in table.rows:
                for name in (row.method, row.options.get("learner")):
                    if name in METHODS:
                        found.setdefault(str(name), {})[f"{protocol.name}/{table.id}"] = None
    return {name: tuple(tables) for name, tables in found.items()}


def _kind(name: str) -> str:
    if name in PLUG_INS:
        return "plug-in"
    return "learner" if name in LEARNERS else "candidates" if name in PARTIAL_LABEL else "alone"


def _summary(name: str) -> str:
    """The first sentence of the module that holds the method, read without importing it."""
    place = METHODS.place(name)
    found = find_spec(place.partition(":")[0])
    source = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
    paragraph = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def _contents(table: Table, needed: Sequence[Cell], times: Known | None) -> str:
    ready = [cell for cell in needed if implemented(cell)]
    parts = [f"{len(table.rows)} rows x {len(table.columns)} columns"]
    if needed:
        runs = sum(len(cell.seeds) for cell in ready)
        missing = sum(len(cell.seeds) for cell in needed) - runs
        parts.append(f"{runs} runs" + (f" ({missing} more not implemented)" if missing else ""))
    hours = _hours(needed, times)
    return ", ".join(parts + ([f"about {hours} GPU-hours"] if hours else []))


def _source(times: Known | None) -> str:
    """What the hours rest on."""
    if times is None:
        return "a model's estimate, an order of magnitude"
    return f"scaled by what {times.runs} finished runs took on {times.device}"


def _hours(chosen: Sequence[Cell], times: Known | None) -> str:
    """The estimate as text; empty where nothing is to be run, or no paper's recipe, or the backbone is not there."""
    if not chosen or COMPARABLE not in chosen[0].protocol.presets:
        return ""
    try:
        hours = table_hours(chosen) * (times.pace if times and times.pace else 1.0)
        return f"{hours:,.0f}" if hours >= 1 else f"{hours:.1g}"
    except UserError:
        return ""
