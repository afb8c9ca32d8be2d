"""What a protocol file may say: frozen dataclasses, one per section, with the limits of each number beside it.

A field's name is its key in `protocol.toml`. Limits stand in the field's metadata: `least` (inclusive), `above`,
`most` and `below`, `choices`, `pattern`; `key=False` marks what the loader fills in and the file may not set.
Keys are checked everywhere except inside `options`, which belong to a reader or a method and are checked there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ferbench.errors import UserError

Option = str | int | float | bool

REST = "rest"  # the unlabelled images are those that the split leaves over
NONE = "none"  # there are no unlabelled images
PUBLISHED_ONLY = "published-only"
ID = {"pattern": r"[a-z0-9][a-z0-9._-]*"}
VARIANTS = ("paper", "released", "usb")
SCHEDULES = ("constant", "cosine", "cosine_per_epoch", "exponential")
EPOCHS = ("steps", "labelled", "unlabelled")

SPLIT_KEYS: Mapping[str, tuple[str, ...]] = {
    "full": (),
    "long_tailed": ("n1", "gamma"),
    "balanced": ("per_class",),
    "fraction": ("fraction",),
    "total": ("labels",),
    "adacm": ("labels",),
    "adacm_released": ("labels",),
    "kfold": ("folds", "fraction"),
}
SPLIT_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "balanced": ("exceptions",),
    "kfold": ("fold", "fold_seed", "own_folds"),
}
# Beyond these a number is a slip of the finger, and would end in a full memory or a run of years.
MOST_IMAGES = 2**16  # of a batch
MOST_PIXELS = 4096  # a side
MOST_EPOCHS, MOST_STEPS = 10**5, 10**7
SPLIT_ALWAYS = ("validation", "noise", "overlap", "parts", "part")  # optional in every kind


class ProtocolError(UserError):
    """A protocol file, or a name given for one, is wrong; one line: which file, which key, how to mend it."""


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs besides its method and its data."""

    backbone: str
    batch_size: int = field(metadata={"least": 1, "most": MOST_IMAGES})  # labelled images per step
    epochs: int = field(metadata={"least": 1, "most": MOST_EPOCHS})
    steps_per_epoch: int = field(metadata={"least": 1, "most": MOST_STEPS})  # where an epoch is a number of steps
    lr: float = field(metadata={"above": 0.0})
    epoch_of: str = field(default="steps", metadata={"choices": EPOCHS})  # or whole batches in a pass over these images
    few_labels: int = field(default=0, metadata={"least": 0})  # with fewer labelled images than this ...
    few_epochs: int = field(default=0, metadata={"least": 0, "most": MOST_EPOCHS})  # ... a run is this many epochs long
    weights: str = "none"  # name of a pre-trained weight file, "none" = random initialisation
    mu: int = field(default=1, metadata={"least": 1, "most": 1024})  # unlabelled images per labelled image
    input_size: int = field(default=224, metadata={"least": 8, "most": MOST_PIXELS})  # pixels
    crop_padding: int = field(default=8, metadata={"least": 0, "most": MOST_PIXELS})  # pixels
    crop_probability: float = field(default=0.5, metadata={"least": 0.0, "most": 1.0})
    randaugment_ops: int = field(default=3, metadata={"least": 0, "most": 100})
    cutout: float = field(default=0.5, metadata={"least": 0.0, "most": 1.0})  # largest side, share of the width
    optimizer: str = field(default="adam", metadata={"choices": ("adam", "adamw", "sgd")})
    momentum: float = field(default=0.0, metadata={"least": 0.0, "below": 1.0})  # sgd only
    weight_decay: float = field(default=0.0, metadata={"least": 0.0})
    beta1: float = field(default=0.9, metadata={"least": 0.0, "below": 1.0})  # adam and adamw
    beta2: float = field(default=0.999, metadata={"least": 0.0, "below": 1.0})  # adam and adamw
    layer_decay: float = field(default=1.0, metadata={"above": 0.0, "most": 1.0})  # rate times this per layer downwards
    schedule: str = field(default="constant", metadata={"choices": SCHEDULES})  # training/schedule.py has the formulas
    cosine_epochs: int = field(default=0, metadata={"least": 0, "most": MOST_EPOCHS})  # of a cosine, 0 = all epochs
    warmup_epochs: int = field(default=0, metadata={"least": 0, "most": MOST_EPOCHS})
    warmup_lr: float = field(default=0.0, metadata={"least": 0.0})  # where the warm-up starts
    min_lr: float = field(default=0.0, metadata={"least": 0.0})  # where a cosine ends
    augmentation: str = field(default="crop", metadata={"choices": ("crop", "resized_crop")})  # the latter: SSFER's
    crop_scale: float = field(default=0.2, metadata={"above": 0.0, "most": 1.0})  # least area of a resized crop
    mean_std: str = field(default="imagenet", metadata={"choices": ("imagenet", "ssfer")})  # normalisation
    ema: float = field(default=0.0, metadata={"least": 0.0, "below": 1.0})  # decay per step, 0 = no averaged model
    ema_buffers: str = field(default="copy", metadata={"choices": ("ema", "copy")})  # batch-norm statistics
    shrink: float = field(default=0.0, metadata={"least": 0.0})  # student *= 1 - shrink * lr after each EMA step
    evaluate: str = field(default="student", metadata={"choices": ("ema", "student")})
    dropout: float = field(default=0.0, metadata={"least": 0.0, "below": 1.0})
    normalise_features: bool = False  # the feature at length 1 after dropout, before the classifier
    channel_order: str = field(default="rgb", metadata={"choices": ("rgb", "bgr")})  # that the backbone is shown
    score_unlabelled: bool = False  # score the unlabelled images after each epoch, where their truth is known
    joint: bool = False  # labelled and strong views in one forward pass, where the method can
    clip: float = field(default=0.0, metadata={"least": 0.0})  # gradient norm, 0 = no clipping
    dtype: str = field(default="float32", metadata={"choices": ("float32", "bfloat16", "float16")})  # autocast type

    def shortened(self, share: float) -> Recipe:
        """With this share of the epochs, at least one, and all else as it is, the warm-up too."""
        few = max(1, round(self.few_epochs * share)) if self.few_epochs else 0
        return replace(self, epochs=max(1, round(self.epochs * share)), few_epochs=few)


@dataclass(frozen=True)
class PretrainingRecipe:
    """How `ferbench pretrain OBJECTIVE --recipe PROTOCOL` makes weights; the recipe's name is the objective's.

    datasets: whose training images, where the command names none. settings and options stand before the defaults of
    bench/pretraining/settings.py and of the objective, and are checked there.
    """

    datasets: tuple[str, ...] = ()
    settings: Mapping[str, Option] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A reader by name and the options that fix which images and labels it gives.

    images: how many training images there are, for estimates of what runs cost; 0 = not said.
    test_images: how many are tested, for what published differences can carry; 0 = not said.
    """

    reader: str
    images: int = field(default=0, metadata={"least": 0})
    test_images: int = field(default=0, metadata={"least": 0})
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidates:
    """How partial-label methods get a set of candidate labels for each training image.

    bench/data/splits/candidates.py has the kinds and their options.
    """

    kind: str
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """How the labelled images are drawn from a training set; what is left over is unlabelled.

    full: all labelled. long_tailed: N_k = int(n1 * gamma^(-(k-1)/(K-1))), classes sorted by training-set size.
    balanced: `per_class` images of each class, but for `exceptions`. fraction: that share of each class.
    total: floor(labels / K) of each class. adacm, adacm_released: Ada-CM's counts on RAF-DB by its README, and those
    its code draws. kfold: one of `folds` parts of the training set is the test set, and `fraction` of each class in the
    others is labelled; without `fold` the run's seed names it.
    """

    kind: str = field(metadata={"choices": tuple(SPLIT_KEYS)})
    n1: int | None = field(default=None, metadata={"least": 1})
    gamma: float | None = field(default=None, metadata={"least": 1.0})
    per_class: int | None = field(default=None, metadata={"least": 1})
    exceptions: Mapping[str, int] | None = None  # class name to count
    fraction: float | None = field(default=None, metadata={"above": 0.0, "most": 1.0})
    labels: int | None = field(default=None, metadata={"least": 1})  # in all
    folds: int | None = field(default=None, metadata={"least": 2})
    fold: int | None = field(default=None, metadata={"least": 1})  # 1 is the first
    fold_seed: int | None = field(default=None, metadata={"least": 1, "most": 2**32 - 1})  # of the shuffle
    own_folds: bool | None = None  # the data set's own (Adience) instead of shuffled ones
    validation: float = field(default=0.0, metadata={"least": 0.0, "below": 1.0})  # share of the labelled images
    noise: float = field(default=0.0, metadata={"least": 0.0, "below": 1.0})  # share of the labels made wrong
    overlap: bool = False  # labelled images are among the unlabelled ones as well
    parts: int | None = field(default=None, metadata={"least": 2})  # of so many equal parts of the labelled images ...
    part: int | None = field(default=None, metadata={"least": 1})  # ... this one is left out

    @property
    def options(self) -> dict[str, float | int | Mapping[str, int]]:
        """The parameters of this kind of split by name, without `validation` and what is left at its default."""
        keys = (*SPLIT_KEYS[self.kind], *SPLIT_OPTIONAL.get(self.kind, ()), "noise", "overlap", "parts", "part")
        return {key: value for key in keys if (value := getattr(self, key)) not in (None, 0, False)}


@dataclass(frozen=True)
class Stage:
    """A run that another one starts from, on the same data, split and seed: its final weights are the other's first.

    `recipe`, where not given, is the later run's own. Stages may follow one another. One run serves all that name it.
    """

    method: str
    options: Mapping[str, Option] = field(default_factory=dict)
    recipe: str | None = None
    variant: str | None = field(default=None, metadata={"choices": VARIANTS})
    unlabelled: tuple[str, ...] | None = None
    after: Stage | None = None


@dataclass(frozen=True)
class Row:
    """One line of a published table: a method with its options, or (published-only) just its numbers.

    `split`, `recipe`, `unlabelled` and `candidates`, where given, stand before the column's; `variant` before the
    protocol's.
    after: the run whose final weights this row's runs start from.
    rule: which of its inference rules the row's numbers are of, where it is not the first: rows of one model's several
    predictions share its runs.
    split_options and recipe_options: what this row sets otherwise in whichever split and recipe hold, such as the share
    of labels or the backbone; a preset stands before either.
    """

    id: str = field(metadata=ID)
    label: str  # as printed
    method: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    status: str = field(default="", metadata={"choices": ("", PUBLISHED_ONLY)})
    variant: str | None = field(default=None, metadata={"choices": VARIANTS})
    split: str | None = None
    split_options: Mapping[str, Option] = field(default_factory=dict)
    recipe: str | None = None
    recipe_options: Mapping[str, Option] = field(default_factory=dict)
    unlabelled: tuple[str, ...] | None = None
    after: Stage | None = None
    candidates: str | None = None
    rule: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a published table: what is trained on, with which labels, and where it is tested.

    unlabelled: any of "rest" (the training images the split leaves over) and names of data sets; empty = none.
    test: the data set whose test part is scored; empty = the training data set's own.
    candidates: candidate label sets for the methods that take them; the others do without.
    mean_of: columns whose runs' mean this one is (an average over folds); it needs nothing else, nor does a
    published-only column.
    """

    id: str = field(metadata=ID)
    label: str
    dataset: str = ""
    split: str = ""
    recipe: str = ""
    unlabelled: tuple[str, ...] = (REST,)
    test: str = ""
    candidates: str = ""
    mean_of: tuple[str, ...] = ()
    status: str = field(default="", metadata={"choices": ("", PUBLISHED_ONLY)})


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
class Claim:
    """What a paper says of two rows, the first above the second, for `ferbench claims` to put to the test.

    tables: every column of these is a test, for each holds both rows. first, second: rows; one that ends in "@RULE" is
    what that inference rule of its runs says. presets: one for the first row and one for the
    second, where the claim is of what a preset starts from; otherwise both have the same, and each is a test.
    published: two cells, TABLE/ROW/COLUMN, whose printed numbers say how large the difference is where the tested ones
    have none.
    """

    id: str = field(metadata=ID)
    says: str
    tables: tuple[str, ...]
    first: str
    second: str
    presets: tuple[str, ...] = ()
    published: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """One paper's protocol. Results compare only under one name, version and hash.

    presets: what each sets in all recipes, or as "RECIPE.KEY" in one; one that `extends` another takes along what
    `method_options`, `instead` and `off_pace` say of that one.
    method_options: what a preset sets in a method, wherever a row does not: a preset of fewer steps must give what a
    method learns at its own pace (centres, ramps) the rate or length that it has in the paper.
    instead: preset to recipe key to what stands for which of the paper's values, before the preset's one value for all;
    so rows that differ in a backbone can differ in a small one as well.
    off_pace: preset to setting ("ema", or "METHOD.option") to the reason why it does not have the paper's share of a
    run there, for `ferbench check`.
    """

    paper: str = field(metadata=ID)
    title: str
    citation: str
    version: int = field(metadata={"least": 1})
    recipes: Mapping[str, Recipe]
    presets: Mapping[str, Mapping[str, Option]]
    datasets: Mapping[str, Dataset]
    splits: Mapping[str, Split]
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...] = ()
    candidates: Mapping[str, Candidates] = field(default_factory=dict)
    pretraining: Mapping[str, PretrainingRecipe] = field(default_factory=dict)
    method_options: Mapping[str, Mapping[str, Mapping[str, Option]]] = field(default_factory=dict)
    instead: Mapping[str, Mapping[str, Mapping[str, Option]]] = field(default_factory=dict)
    off_pace: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
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

    def recipe(self, name: str, preset: str, options: Mapping[str, Option] | None = None) -> Recipe:
        """Recipe `name` with `options` and, over them, the preset's. Raises ProtocolError for an unknown preset."""
        if preset not in self.presets:
            raise ProtocolError(f"{self.name} has no preset '{preset}'; it has: {', '.join(self.presets)}")
        of_paper = {**vars(self.recipes[name]), **(options or {})}
        of_preset = preset_for(self.presets[preset], name)
        for key, stand_ins in self.instead.get(preset, {}).items():
            if of_paper[key] in stand_ins:
                of_preset[key] = stand_ins[of_paper[key]]
        return Recipe(**{**of_paper, **of_preset})


def preset_for(preset: Mapping[str, Option], recipe: str) -> dict[str, Option]:
    """What a preset sets in `recipe`: its plain keys and, over them, those written as "RECIPE.KEY"."""
    own = {key.removeprefix(f"{recipe}."): value for key, value in preset.items() if key.startswith(f"{recipe}.")}
    return {**{key: value for key, value in preset.items() if "." not in key}, **own}
