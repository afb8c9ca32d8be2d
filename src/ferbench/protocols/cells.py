"""From `PAPER/TABLE/ROW/COLUMN` to the cells it names: one cell is one number of a table, a run per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol as Structural
from typing import TypeVar

from ferbench.protocols.loader import load_protocol, protocol_names
from ferbench.protocols.schema import (
    PUBLISHED_ONLY,
    Candidates,
    Column,
    Dataset,
    Option,
    Protocol,
    ProtocolError,
    Published,
    Recipe,
    Row,
    Split,
    Table,
)
from ferbench.validation import nearest


@dataclass(frozen=True)
class Cell:
    """One row and one column of one table, with the row's own settings standing before the column's."""

    protocol: Protocol
    table: Table
    row: Row
    column: Column
    length: float = 1.0  # share of the recipe's epochs

    @property
    def id(self) -> str:
        """`PAPER/TABLE/ROW/COLUMN`, what `select` takes."""
        return f"{self.protocol.name}/{self.table.id}/{self.row.id}/{self.column.id}"

    @property
    def published_only(self) -> bool:
        """True where there is nothing to run: another group's number, or one that is taken from other columns."""
        return PUBLISHED_ONLY in (self.table.status, self.row.status, self.column.status) or bool(self.column.mean_of)

    @property
    def method(self) -> str:
        """Registered name of the method; empty where published-only."""
        return self.row.method

    @property
    def options(self) -> Mapping[str, Option]:
        """The method's options besides its variant."""
        return self.row.options

    def options_under(self, preset: str) -> Mapping[str, Option]:
        """The method's options under `preset`: the row's, over what the preset sets in this method."""
        return {**self.protocol.method_options.get(preset, {}).get(self.method, {}), **self.options}

    @property
    def variant(self) -> str:
        """Whether the method follows the paper or the released code."""
        return self.row.variant or self.protocol.variant

    @property
    def seeds(self) -> tuple[int, ...]:
        """One run each."""
        return self.table.seeds

    @property
    def dataset(self) -> str:
        """Name of the training data set, a key of `protocol.datasets`."""
        return self.column.dataset

    @property
    def test(self) -> str:
        """Name of the data set whose test part is scored."""
        return self.column.test or self.column.dataset

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """Sources of unlabelled images: "rest" (left over by the split) and data set names; empty = none."""
        return self.column.unlabelled if self.row.unlabelled is None else self.row.unlabelled

    @property
    def split_name(self) -> str:
        """Key of `protocol.splits`."""
        return self.row.split or self.column.split

    @property
    def split(self) -> Split:
        """How the labelled images are drawn, with what the row sets otherwise."""
        split = self.protocol.splits[self.split_name]
        return replace(split, **self.row.split_options)  # type: ignore[arg-type]  # checked by the loader

    @property
    def candidates(self) -> Candidates | None:
        """How candidate label sets are made, for the methods that take them."""
        name = self.row.candidates or self.column.candidates
        return self.protocol.candidates[name] if name else None

    @property
    def before(self) -> Cell | None:
        """The run this one starts from, as a cell of the same column; it has no number of its own in the table."""
        stage = self.row.after
        if stage is None:
            return None
        row = replace(
            self.row, id=f"{self.row.id}.before", method=stage.method, options=stage.options, after=stage.after,
            variant=stage.variant or self.row.variant, recipe=stage.recipe or self.row.recipe,
            recipe_options={} if stage.recipe else self.row.recipe_options,
            unlabelled=self.row.unlabelled if stage.unlabelled is None else stage.unlabelled,
        )  # fmt: skip
        return replace(self, row=row, length=1.0)

    def scored_by(self, parts: int) -> tuple[Cell, ...]:
        """Plain cross-entropy in this cell's place: the runs whose predictions make candidate sets, where some do.

        parts: of the labelled images, each of which one of the runs does without; 1 for one run that has them all.
        Their length is the candidate sets' option of that name, where they have one.
        """
        length = self.candidates.options.get("length") if self.candidates else None
        held: list[dict[str, Option]] = [{"parts": parts, "part": part + 1} for part in range(parts)]
        rows = [
            replace(
                self.row, id=f"{self.row.id}.softmax", method="vanilla", options={},
                split_options={**self.row.split_options, **(chosen if parts > 1 else {})},
            )
            for chosen in held
        ]  # fmt: skip
        length = float(length) if isinstance(length, int | float) else 1.0
        return tuple(replace(self, row=row, length=length) for row in rows)

    @property
    def recipe_name(self) -> str:
        """Key of `protocol.recipes`."""
        return self.row.recipe or self.column.recipe

    def recipe(self, preset: str) -> Recipe:
        """The training recipe under `preset`. Raises ProtocolError for an unknown preset."""
        recipe = self.protocol.recipe(self.recipe_name, preset, self.row.recipe_options)
        return recipe if self.length == 1 else recipe.shortened(self.length)

    def data(self, name: str) -> Dataset:
        """Reader and options of one of this cell's data sets."""
        return self.protocol.datasets[name]

    def published(self, metric: str) -> Published | None:
        """The paper's number, None where there is none."""
        return self.table.published.get((self.row.id, self.column.id, metric))


def select(target: str) -> list[Cell]:
    """The cells of `PAPER[/TABLE[/ROW[/COLUMN]]]`, PAPER a shipped protocol or the folder of another.

    Raises ProtocolError listing the valid names.
    """
    parts = target.split("/")
    length = 1
    if parts[0] not in protocol_names():  # a folder's path has slashes of its own
        length = next((n for n in range(1, len(parts) + 1) if Path("/".join(parts[:n]), "protocol.toml").is_file()), 1)
    return cells(load_protocol("/".join(parts[:length])), "/".join(parts[length:]))


def cells(protocol: Protocol, selector: str = "") -> list[Cell]:
    """The cells of `[TABLE[/ROW[/COLUMN]]]` in the order of the file; an empty part or `*` means all.

    Published-only cells are among them: the caller says so and goes on. Raises ProtocolError for an unknown name.
    """
    parts = selector.strip("/").split("/")
    if len(parts) > 3:
        raise ProtocolError(f"'{protocol.name}/{selector}' has too many parts; write PAPER/TABLE/ROW/COLUMN")
    table_id, row_id, column_id = parts + ["*"] * (3 - len(parts))
    return [
        Cell(protocol, table, row, column)
        for table in _choose(protocol.tables, table_id, "table", protocol.name)
        for row in _choose(table.rows, row_id, "row", f"table {table.id} of {protocol.name}")
        for column in _choose(table.columns, column_id, "column", f"table {table.id} of {protocol.name}")
    ]


class _Named(Structural):
    @property
    def id(self) -> str: ...


N = TypeVar("N", bound=_Named)


def _choose(items: Sequence[N], name: str, kind: str, where: str) -> Sequence[N]:
    if name in ("", "*"):
        return items
    chosen = [item for item in items if item.id == name]
    if not chosen:
        ids = [item.id for item in items]
        guess = f" ({nearest(name, ids)})" if nearest(name, ids).startswith("did") else ""
        raise ProtocolError(f"{where} has no {kind} '{name}'{guess}; it has: {', '.join(ids)}")
    return chosen
