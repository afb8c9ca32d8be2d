"""Pages that mkdocs makes from the package: one per method, protocol and data set, from docstrings and records."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ferbench.bench.board.leaderboard import Leaderboard, collect
from ferbench.bench.board.published import published_columns, published_text
from ferbench.bench.data.sets.readers import READERS
from ferbench.bench.tables.planning.listing import tables_with
from ferbench.bench.tables.planning.step_cost import step_cost
from ferbench.methods import METHODS, PLUG_INS
from ferbench.protocols import Protocol, Table, load_protocol, protocol_names

RESULTS = Path(__file__).parent.parent / "results"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages; mkdocs calls this."""
    from mkdocs.structure.files import File

    for name, text in pages():
        files.append(File.generated(config, name, content=text))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Every made page: its place and its Markdown."""
    board = collect(RESULTS)
    for folder, title, names, one in (
        ("methods", "Methods", tuple(METHODS), lambda name: method_page(name, board)),
        ("protocols", "Protocols", protocol_names(), protocol_page),
        ("datasets", "Data sets", tuple(READERS), dataset_page),
    ):
        listed = "\n".join(f"- [{name}]({name}.md)" for name in names)
        yield f"{folder}/index.md", f"# {title}\n\n{listed}\n"
        for name in names:
            yield f"{folder}/{name}.md", one(name)


def method_page(name: str, board: Leaderboard) -> str:
    """Paper, equations and departures from its docstring; options, cost of a step, tables, and our records."""
    method = METHODS[name]
    module = inspect.getmodule(method)
    variants = [f"- `{variant}` sets {_set(changed)}" for variant, changed in
                (("released", method.released), ("usb", method.usb)) if changed]  # fmt: skip
    options = "\n".join(f"| `{field.name}` | `{field.default}` |" for field in fields(method.Options))
    tables = ", ".join(tables_with().get(name, ())) or "none"
    return "\n".join([
        f"# {name}", "", f"Paper: {method.paper}", "", _text(inspect.getdoc(module) if module else ""), "",
        "## Options", "", _text(inspect.cleandoc(method.Options.__doc__ or "")), "",
        "| option | the paper's default |", "|---|---|", options, "", *variants, "",
        "## Cost and tables", "",
        f"Images per step (B labelled, U unlabelled): {step_cost(name)}. "
        f"{'A plug-in: this is with FixMatch as its learner. ' if name in PLUG_INS else ''}In tables: {tables}.", "",
        "## Our records", "", *_records(name, board), "",
    ])  # fmt: skip


def _records(name: str, board: Leaderboard) -> list[str]:
    lines = [
        f"| {line.paper} {line.table}, {line.row_label} | {line.column_label} | {line.variant} {line.preset} "
        f"| {line.metric} | {line.measured_mean:.2f} | {line.n} | {_number(line.published_mean)} |"
        for line in board.lines
        if line.selection == "last" and line.measured_mean is not None and _method_of(line.run_ids, board) == name
    ]
    if not lines:
        return ["None."]
    head = ["| row | column | runs | metric | measured, % | seeds | published, % |", "|---|---|---|---|---|---|---|"]
    return [*head, *lines, "", "Presets other than `paper` are not comparable with published numbers."]


def _method_of(run_ids: tuple[str, ...], board: Leaderboard) -> str:
    known = {run.id: run.spec.get("method", "") for runs in board.runs.values() for run in runs}
    return str(known.get(run_ids[0], "")) if run_ids else ""


def protocol_page(name: str) -> str:
    """A paper's tables: rows, columns, notes, and what its published differences can carry."""
    protocol = load_protocol(name)
    presets = ", ".join(f"`{preset}`" for preset in protocol.presets)
    parts = [f"# {name}", "", f"{protocol.title}. {protocol.citation}", ""]
    parts += [f"Version {protocol.version}; presets {presets}; variant `{protocol.variant}`.", ""]
    for table in protocol.tables:
        parts += _table(protocol, table)
    return "\n".join(parts)


def _table(protocol: Protocol, table: Table) -> list[str]:
    head = "| row | " + " | ".join(column.label for column in table.columns) + " |"
    rows = [
        f"| {row.label} | " + " | ".join(_published(table, row.id, column.id) for column in table.columns) + " |"
        for row in table.rows
    ]
    carried = [f"- {published_text(one)}" for one in published_columns(protocol, table)]
    return [
        f"## {protocol.name}/{table.id}", "", f"{table.caption} ({table.source}; {' / '.join(table.metrics)}).", "",
        _text(table.notes), "", head, "|---" * (len(table.columns) + 1) + "|", *rows, "",
        *(["What these differences can carry:", "", *carried, ""] if carried else []),
    ]  # fmt: skip


def _published(table: Table, row: str, column: str) -> str:
    found = [table.published.get((row, column, metric)) for metric in table.metrics]
    return " / ".join(f"{one.mean:.2f}" if one else "-" for one in found) if any(found) else ""


def dataset_page(name: str) -> str:
    """What a reader recognises and its options."""
    reader = READERS[name]
    rows = "\n".join(
        f"| `{key}` | `{option.default}` | {option.help}{_choices(option.choices)} |"
        for key, option in reader.options.items()
    )
    where = f"Your copy: `--root {name}=PATH`, or `{reader.root_env}`." if reader.root_env else "It needs no files."
    return f"# {name}\n\n{reader.summary}. {where}\n\n| option | default | meaning |\n|---|---|---|\n{rows}\n"


def _choices(choices: Any) -> str:
    return f" (one of {', '.join(map(str, choices))})" if choices else ""


def _set(changed: Any) -> str:
    return ", ".join(f"`{key} = {value}`" for key, value in changed.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _text(text: str | None) -> str:
    """A docstring as a block that keeps its lines: equations and numbered lists are laid out by hand."""
    return f"```text\n{(text or '').strip()}\n```" if (text or "").strip() else ""
