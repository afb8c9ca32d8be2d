"""What a run is asked to be, in plain values: its spec but for the data at hand.

Two cells with equal settings share a run. No data set is opened here and nothing of the training is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, cast

from ferbench.bench.data.sets.readers import READERS
from ferbench.bench.data.splits.candidates import candidate_options, needs_model
from ferbench.bench.tables.method_options import completed, option_values, takes_candidates
from ferbench.bench.training.recording.records import Spec, spec_hash
from ferbench.errors import DataError
from ferbench.methods import METHODS, MethodError
from ferbench.protocols import NONE, REST, Cell, Recipe
from ferbench.validation import Value, resolve_options

if TYPE_CHECKING:
    from ferbench.methods import Variant

DATA = ("dataset", "test", "unlabelled", "split")
DEFAULTS = {field.name: field.default for field in fields(Recipe)}


def settings(cell: Cell, preset: str, seed: int, variant: Variant | None = None) -> Spec:
    """Everything about a cell's run that does not need the data: runs with equal settings are the same run.

    A run serves every cell with its settings, whichever table it was made for. Raises MethodError or DataError.
    """
    parameters = {key: value for key, value in cell.split.options.items() if value}
    options, recipe = cell.options_under(preset), cell.recipe(preset)
    return method_settings(cell.method, options, variant or cast("Variant", cell.variant), recipe) | {
        "dataset": _described(cell, cell.dataset),
        "test": _described(cell, cell.test),
        "unlabelled": _unlabelled(cell),
        "split": {"kind": cell.split.kind, "parameters": {**parameters, "validation": cell.split.validation}},
        "preset": preset,
        "seed": seed,
        **_candidates(cell),
        **({"after": settings(cell.before, preset, seed, variant)} if cell.before else {}),
    }


def method_settings(method: str, options: Mapping[str, object], variant: Variant, recipe: Recipe) -> Spec:
    """Method, variant, complete options and recipe as plain types. Raises MethodError.

    Where the released code changes none of the options there is one variant, "paper": no run is done twice.
    """
    given = dict(options)
    if recipe.joint and option_values(method, variant, options).get("joint") is False:
        given.setdefault("joint", True)
    values, of_paper = option_values(method, variant, given), option_values(method, "paper", given)
    named = "paper" if values == of_paper else variant
    return {"method": method, "variant": named, "options": values, "recipe": dict(vars(recipe))}


def describe(reader: str, options: Mapping[str, Value]) -> Spec:
    """A data set in a spec: its reader and every option. Raises DataError for an option the reader does not have.

    A reader that is not there yet is described by the options it was given; opening it says that it is missing.
    """
    if reader not in READERS:
        return {"reader": reader, "options": dict(options)}
    return {"reader": reader, "options": resolve_options(reader, READERS[reader].options, options, DataError)}


def _candidates(cell: Cell) -> Spec:
    chosen = cell.candidates
    return candidate_settings(cell.method, chosen.kind if chosen else None, chosen.options if chosen else {})


def _unlabelled(cell: Cell) -> Spec | str:
    if cell.unlabelled in ((), (REST,)):
        return REST if cell.unlabelled else NONE
    parts = [name if name == REST else {"name": name, **_described(cell, name)} for name in sources(cell)]
    return {"sources": parts} if len(parts) > 1 else cast(Spec, parts[0])


def sources(cell: Cell) -> tuple[str, ...]:
    """The cell's sources of unlabelled images, the rest first: its positions in a pool are those in the data set."""
    return tuple(sorted(cell.unlabelled, key=lambda name: name != REST))


def _described(cell: Cell, name: str) -> Spec:
    return describe(cell.data(name).reader, cell.data(name).options)


def candidate_settings(method: str, kind: str | None, options: Mapping[str, Value]) -> Spec:
    """The part of a spec that says how candidate sets are made; empty for a method that takes none.

    Raises MethodError where a method needs them and none are named, DataError for a kind or option that is none.
    """
    if method not in METHODS or not takes_candidates(method):
        return {}
    if not kind:
        raise MethodError(f"{method} learns from candidate sets: name a kind of them, such as votes_multi_target")
    return {"candidates": {"kind": kind, "options": candidate_options(kind, options)}}


def made_from_a_model(spec: Mapping[str, Any]) -> bool:
    """Whether the run of this spec needs another run's predictions."""
    asked = spec.get("candidates")
    return needs_model(asked["kind"], asked["options"]) if asked else False


def folds_of(spec: Mapping[str, Any]) -> int:
    """How many runs score the labelled images of the run of this spec: 0 where none do."""
    return int(spec["candidates"]["options"]["folds"]) if made_from_a_model(spec) else 0


def same_run(spec: Mapping[str, Any]) -> str:
    """A key of what must agree for two cells to share a run: all settings but the seed.

    Not the fingerprints and pixels, which are of the data at hand. A user may write 150 where a protocol has 150.0, and
    leave the validation share out where it is none. A recipe is compared without what is at its default, so that a new
    key with a default leaves old runs what they are; a method's options with what runs did before there were all of
    them.
    """
    kept = {key: value for key, value in spec.items() if key not in ("seed", "weights", "made_for")}
    if kept.get("method") in METHODS:
        kept["options"] = completed(kept["method"], kept["options"])
    for part in (*DATA, "candidates") if "candidates" in kept else DATA:
        if isinstance(kept[part], dict):
            kept[part] = {key: value for key, value in kept[part].items() if key not in ("fingerprint", "pixels")}
    kept["recipe"] = {key: value for key, value in kept["recipe"].items() if value != DEFAULTS.get(key, MISSING)}
    if "after" in kept:
        kept["after"] = same_run({key: value for key, value in kept["after"].items() if key != "hash"})
    kept["split"] = dict(kept["split"])
    kept["split"]["parameters"] = {"validation": 0, **kept["split"]["parameters"]}
    return spec_hash(json.loads(json.dumps(kept), parse_int=float))
