"""What `ferbench list` prints."""

from __future__ import annotations

from dataclasses import fields

from rich.table import Table

from ferbench.bench.data.readers import READERS
from ferbench.bench.leaderboard import implemented
from ferbench.methods import METHODS, PLUG_INS
from ferbench.protocols import cells, load_protocol, protocol_names


def methods() -> Table:
    """Name, paper, views and options with their defaults."""
    table = Table("method", "paper", "options (paper's defaults)", "released code differs in", title="methods")
    for name, method in METHODS.items():
        options = ", ".join(f"{field.name}={field.default}" for field in fields(method.Options))
        kind = " (plug-in: learner=...)" if name in PLUG_INS else ""
        table.add_row(name + kind, method.paper, options, ", ".join(method.released) or "-")
    return table


def protocols() -> Table:
    """Tables with their rows, columns and runs."""
    table = Table("table", "caption", "rows run / all", "columns", "runs", "published", title="protocols")
    for name in protocol_names():
        protocol = load_protocol(name)
        for entry in protocol.tables:
            mine = cells(protocol, entry.id)
            ready = [cell for cell in mine if not cell.published_only and implemented(cell)]
            table.add_row(
                f"{name}/{entry.id}", entry.caption, f"{len({cell.row.id for cell in ready})} / {len(entry.rows)}",
                str(len(entry.columns)), str(sum(len(cell.seeds) for cell in ready)), str(len(entry.published)),
            )  # fmt: skip
    return table


def datasets() -> Table:
    """Readers with their options."""
    table = Table("data set", "what it is", "options", title="data sets")
    for reader in READERS.values():
        options = ", ".join(f"{name}={option.default}" for name, option in reader.options.items())
        table.add_row(reader.name, reader.summary, options)
    return table
