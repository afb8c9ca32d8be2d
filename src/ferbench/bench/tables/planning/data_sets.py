"""What `ferbench list datasets` prints. No protocol and no method is read for it."""

from __future__ import annotations

from collections.abc import Iterable

from ferbench.bench.data.sets.readers import READERS
from ferbench.bench.tables.planning.lines import INDENT, cut


def datasets(width: int | None) -> Iterable[str]:
    """Two lines per data set: what it is, and its options."""
    for name, reader in READERS.items():
        yield cut(f"{name:<14} {reader.summary}", width)
        options = ", ".join(f"{key}={option.default}" for key, option in reader.options.items())
        if options:
            yield cut(f"{INDENT}options: {options}", width)
    yield cut("`ferbench list datasets NAME` explains the options", width)


def datasets_card(name: str) -> Iterable[str]:
    """One data set's options with their meaning. Raises DataError for an unknown name."""
    reader = READERS.find(name)
    yield f"{name}: {reader.summary}"
    if reader.root_env:
        yield f"your copy: --root {name}=PATH, or the environment variable {reader.root_env}"
    for key, option in reader.options.items():
        choices = f" (one of {', '.join(map(str, option.choices))})" if option.choices else ""
        yield f"{INDENT}{key} = {option.default}: {option.help}{choices}"
