"""One run on a card: what it was, how that differs from the paper, what made it, and the command that repeats it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ferbench.bench.board.own import OWN
from ferbench.bench.board.resolution import evidence_of
from ferbench.bench.board.run_names import Listed
from ferbench.bench.tables.counting.counted import Run
from ferbench.bench.tables.planning.implemented import COMPARABLE
from ferbench.protocols import load_protocol

HASH = 12  # characters shown of one


@dataclass(frozen=True)
class Card:
    """All texts; `facts` and `differs` are pairs of a name and what it is."""

    name: str
    short: str
    link: str
    method: str
    data: str
    split: str
    setting: str
    seed: str
    overall: str
    mean: str
    finished: str
    evidence: str
    facts: tuple[tuple[str, str], ...]
    differs: tuple[tuple[str, str], ...]  # key, "this run's (the paper's)"
    command: str


def make_card(run: Listed, served: Sequence[Run]) -> Card:
    """The card of a finished run, from its files; `served` are the cells that it counts for."""
    spec, record = run.spec, run.record
    last = _part(_part(record, "metrics"), "last")
    split = _part(spec, "split")
    return Card(
        name=run.folder.name,
        short=run.short,
        link=f"runs/{quote(run.folder.name)}/record.json",
        method=_text(spec.get("method")),
        data=" > ".join(dict.fromkeys(_text(_part(spec, part).get("reader")) for part in ("dataset", "test"))),
        split=f"{_text(split.get('kind'))} {_numbers(_part(split, 'parameters'))}".strip(),
        setting=f"{_text(spec.get('variant'))} {_text(spec.get('preset'))}",
        seed=_text(spec.get("seed")),
        overall=_percent(last.get("overall")),
        mean=_percent(last.get("mean")),
        finished=_text(record.get("finished_at"))[:16].replace("T", " "),
        evidence="kept" if served and evidence_of(served[0]) or _has_evidence(record) else "none: not verifiable",
        facts=tuple(_facts(spec, record, served)),
        differs=tuple(_differs(spec, served)),
        command=_command(spec, served),
    )


def _facts(spec: Mapping[str, Any], record: Mapping[str, Any], served: Sequence[Run]) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {_text(version)}" for name, version in _part(record, "versions").items())
    parts = _part(record, "split")
    memory = ", ".join(f"{name} {_text(value)} MiB" for name, value in _part(record, "peak_memory_mib").items())
    cells = [run.cell.id for run in served if run.cell.protocol.name != OWN]
    hashes = {name: _hash(_part(spec, part).get(key)) for name, part, key in (
        ("data", "dataset", "fingerprint"), ("pixels", "dataset", "pixels"), ("split", "split", "fingerprint"),
    )}  # fmt: skip
    weights = spec.get("weights")
    found = [
        ("counts for", ", ".join(cells) or "no paper's table"),
        ("options", _json(spec.get("options"))),
        ("images", ", ".join(f"{name} {_text(count)}" for name, count in parts.items())),
        ("hashes", ", ".join(f"{name} {value}" for name, value in hashes.items() if value)),
        ("weights", f"{weights.get('name')} {_hash(weights.get('sha256'))}" if isinstance(weights, dict) else "random"),
        ("code", f"{_text(record.get('code')) or 'not kept'}, commit {_text(record.get('commit'))}"),
        ("where", f"{_text(record.get('device'))}; {_text(record.get('host')) or 'host not kept'}"),
        ("versions", versions),
        ("cost", _cost(record)),
        ("memory", memory),
    ]
    return [(name, text) for name, text in found if text]


def _cost(record: Mapping[str, Any]) -> str:
    seconds = record.get("seconds")
    if not isinstance(seconds, int | float):
        return ""
    return f"{seconds / 3600:.2f} h, {_text(record.get('steps'))} steps of {_text(record.get('step_ms')) or '?'} ms"


def _differs(spec: Mapping[str, Any], served: Sequence[Run]) -> list[tuple[str, str]]:
    """Recipe keys that are not those of the paper's own recipe for the cell."""
    cell = next((run.cell for run in served if run.cell.protocol.name != OWN), None)
    if cell is None or COMPARABLE not in cell.protocol.presets:
        return []
    paper, recipe = vars(cell.recipe(COMPARABLE)), _part(spec, "recipe")
    return [
        (key, f"{_text(recipe.get(key))} ({_text(value)})") for key, value in paper.items() if recipe.get(key) != value
    ]


def _command(spec: Mapping[str, Any], served: Sequence[Run]) -> str:
    made_for = _part(spec, "made_for")
    if made_for:
        cell, seed = _text(made_for.get("cell")), spec.get("seed")
        own = next((run.cell for run in served if run.cell.id == cell), None)
        seeds = own.seeds.index(seed) + 1 if own and seed in own.seeds else seed
        words = ["ferbench", "reproduce", cell, "--preset", _text(spec.get("preset")), "--seeds", _text(seeds)]
        return shlex.join([*words, "--variant", _text(spec.get("variant"))])
    split = _part(spec, "split")
    numbers = ",".join(f"{key}={_text(value)}" for key, value in _part(split, "parameters").items())
    words = ["ferbench", "train", _text(spec.get("method")), "--dataset", _text(_part(spec, "dataset").get("reader"))]
    words += ["--split", f"{_text(split.get('kind'))}:{numbers}", "--seed", _text(spec.get("seed"))]
    words += ["--preset", _text(spec.get("preset")), "--variant", _text(spec.get("variant"))]
    for flag, part in (
        ("--option", _part(spec, "options")),
        ("--data-option", _part(_part(spec, "dataset"), "options")),
    ):
        words += [word for key, value in part.items() for word in (flag, f"{key}={_plain(value)}")]
    usual = _usual_recipe(_text(spec.get("preset")))
    recipe = {key: value for key, value in _part(spec, "recipe").items() if key not in usual or usual[key] != value}
    words += [word for key, value in recipe.items() for word in ("--recipe", f"{key}={_plain(value)}")]
    return shlex.join(words)


@cache
def _usual_recipe(preset: str) -> Mapping[str, Any]:
    """What `ferbench train` takes where nothing else is said."""
    demo = load_protocol("demo")
    return vars(demo.recipe("synthetic", preset)) if preset in demo.presets else {}


def _has_evidence(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("evidence"), dict)


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _numbers(parameters: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value:g}" for key, value in parameters.items() if _number(value) and value)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _percent(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else ""


def _hash(value: object) -> str:
    return value[:HASH] if isinstance(value, str) else ""


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(value: object) -> str:
    return ", ".join(f"{key}={_plain(one)}" for key, one in value.items()) if isinstance(value, dict) else ""


def _text(value: object) -> str:
    return "" if value is None else str(value)


def results_link(results: Path, out: Path) -> str:
    """The way from the page to the results folder, empty where the page lies in it."""
    return "" if out.parent.resolve() == results.resolve() else f"{quote(str(results))}/"
