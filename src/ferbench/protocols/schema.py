"""What a protocol file may say: frozen dataclasses, one per section, with the limits of each number beside it.

A field's name is its key in `protocol.toml`. Limits stand in the field's metadata: `least` (inclusive), `above`,
`most` and `below`, `choices`, `pattern`; `key=False` marks what the loader fills in and the file may not set.
Keys are checked everywhere except inside `options`, which belong to a reader or a method and are checked there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

Option = str | int | float | bool

REST = "rest"
PUBLISHED_ONLY = "published-only"
ID = {"pattern": r"[a-z0-9][a-z0-9._-]*"}
VARIANTS = ("paper", "released")

SPLIT_KEYS: Mapping[str, tuple[str, ...]] = {
    "full": (),
    "long_tailed": ("n1", "gamma"),
    "balanced": ("per_class",),
    "fraction": ("fraction",),
}


class ProtocolError(Exception):
    """A protocol file, or a name given for one, is wrong; one line: which file, which key, how to mend it."""


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs besides its method and its data."""

    backbone: str
    batch_size: int = field(metadata={"least": 1})  # labelled images per step
    epochs: int = field(metadata={"least": 1})
    steps_per_epoch: int = field(metadata={"least": 1})
    lr: float = field(metadata={"above": 0.0})
    weights: str = "none"  # name of a pre-trained weight file, "none" = random initialisation
    mu: int = field(default=1, metadata={"least": 1})  # unlabelled images per labelled image
    input_size: int = field(default=224, metadata={"least": 8})  # pixels
    crop_padding: int = field(default=8, metadata={"least": 0})  # pixels
    crop_probability: float = field(default=0.5, metadata={"least": 0.0, "most": 1.0})
    randaugment_ops: int = field(default=3, metadata={"least": 0})
    cutout: float = field(default=0.5, metadata={"least": 0.0, "most": 1.0})  # largest side, share of the width
    optimizer: str = field(default="adam", metadata={"choices": ("adam", "adamw", "sgd")})
    momentum: float = field(default=0.0, metadata={"least": 0.0, "below": 1.0})  # sgd only
    weight_decay: float = field(default=0.0, metadata={"least": 0.0})
    schedule: str = field(default="constant", metadata={"choices": ("constant", "cosine")})
    ema: float = field(default=0.0, metadata={"least": 0.0, "below": 1.0})  # decay per step, 0 = no averaged model
    ema_buffers: str = field(default="copy", metadata={"choices": ("ema", "copy")})  # batch-norm statistics
    shrink: float = field(default=0.0, metadata={"least": 0.0})  # student *= 1 - shrink * lr after each EMA step
    evaluate: str = field(default="student", metadata={"choices": ("ema", "student")})
    dropout: float = field(default=0.0, metadata={"least": 0.0, "below": 1.0})
    joint: bool = False  # labelled and strong views in one forward pass, where the method can
    clip: float = field(default=0.0, metadata={"least": 0.0})  # gradient norm, 0 = no clipping
    dtype: str = field(default="float32", metadata={"choices": ("float32", "bfloat16", "float16")})  # autocast type


@dataclass(frozen=True)
class Dataset:
    """A reader by name and the options that fix which images and labels it gives."""

    reader: str
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """How the labelled images are drawn from a training set; what is left over is unlabelled.

    full: all labelled. long_tailed: N_k = int(n1 * gamma^(-(k-1)/(K-1))), classes sorted by training-set size.
    balanced: `per_class` images of each class. fraction: that share of each class.
    """

    kind: str = field(metadata={"choices": tuple(SPLIT_KEYS)})
    n1: int | None = field(default=None, metadata={"least": 1})
    gamma: float | None = field(default=None, metadata={"least": 1.0})
    per_class: int | None = field(default=None, metadata={"least": 1})
    fraction: float | None = field(default=None, metadata={"above": 0.0, "most": 1.0})
    validation: float = field(default=0.0, metadata={"least": 0.0, "below": 1.0})  # share of the labelled images

    @property
    def options(self) -> dict[str, float | int]:
        """The parameters of this kind of split by name, without `validation`."""
        return {key: getattr(self, key) for key in SPLIT_KEYS[self.kind]}


@dataclass(frozen=True)
class Row:
    """One line of a published table: a method with its options, or (published-only) just its numbers.

    `split`, `recipe` and `unlabelled`, where given, stand before the column's; `variant` before the protocol's.
    """

    id: str = field(metadata=ID)
    label: str  # as printed
    method: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    status: str = field(default="", metadata={"choices": ("", PUBLISHED_ONLY)})
    variant: str | None = field(default=None, metadata={"choices": VARIANTS})
    split: str | None = None
    recipe: str | None = None
    unlabelled: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Column:
    """One column of a published table: what is trained on, with which labels, and where it is tested.

    unlabelled: any of "rest" (the training images the split leaves over) and names of data sets; empty = none.
    test: the data set whose test part is scored; empty = the training data set's own.
    """

    id: str = field(metadata=ID)
    label: str
    dataset: str = ""
    split: str = ""
    recipe: str = ""
    unlabelled: tuple[str, ...] = (REST,)
    test: str = ""


@dataclass(frozen=True)
class Absent:
    """Why cells have no published number; "*" stands for every row or column."""

    why: str
    row: str = "*"
    column: str = "*"

    def covers(self, row: str, column: str) -> bool:
        """True where this entry speaks of the cell."""
        return self.row in ("*", row) and self.column in ("*", column)


@dataclass(frozen=True)
class Published:
    """A published number; `std` is None where the paper prints none. Unit: percent unless the table says otherwise."""

    mean: float
    std: float | None = None


@dataclass(frozen=True)
class Table:
    """A published table or figure. `status = "published-only"` frees its columns from naming data."""

    id: str = field(metadata=ID)
    caption: str
    source: str  # where in the paper
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    kind: str = field(default="table", metadata={"choices": ("table", "figure")})
    status: str = field(default="", metadata={"choices": ("", PUBLISHED_ONLY)})
    notes: str = ""
    absent: tuple[Absent, ...] = ()
    published: Mapping[tuple[str, str, str], Published] = field(default_factory=dict, metadata={"key": False})
    """(row id, column id, metric) to number, from the CSV file beside the protocol."""


@dataclass(frozen=True)
class Protocol:
    """One paper's protocol. Results compare only under one name, version and hash."""

    paper: str = field(metadata=ID)
    title: str
    citation: str
    version: int = field(metadata={"least": 1})
    recipes: Mapping[str, Recipe]
    presets: Mapping[str, Mapping[str, Option]]
    datasets: Mapping[str, Dataset]
    splits: Mapping[str, Split]
    tables: tuple[Table, ...]
    variant: str = field(default="paper", metadata={"choices": VARIANTS})
    hash: str = field(default="", metadata={"key": False})  # SHA-256 (hex) of protocol.toml and the CSV files
    path: Path = field(default=Path(), metadata={"key": False})

    @property
    def name(self) -> str:
        """The name `load_protocol` and the records know it by."""
        return self.paper

    @property
    def default_preset(self) -> str:
        """The first preset the file lists."""
        return next(iter(self.presets))

    def recipe(self, name: str, preset: str) -> Recipe:
        """Recipe `name` with the overrides of `preset`. Raises ProtocolError for an unknown preset."""
        if preset not in self.presets:
            raise ProtocolError(f"{self.name} has no preset '{preset}'; it has: {', '.join(self.presets)}")
        overrides: Mapping[str, Option] = self.presets[preset]
        return replace(self.recipes[name], **overrides)  # type: ignore[arg-type]  # checked by the loader
