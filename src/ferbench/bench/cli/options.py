"""Options that several commands have, and how the words of a user become values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from ferbench.errors import UserError

if TYPE_CHECKING:
    from ferbench.bench.tables.runs import Workspace
    from ferbench.methods import Variant

Results = Annotated[Path, typer.Option(help="Folder of runs, leaderboard.csv and speed.csv.")]
Roots = Annotated[list[str] | None, typer.Option("--root", help="DATASET=PATH of your copy; repeatable.")]
Weights = Annotated[list[str] | None, typer.Option("--weights", help="NAME=FILE of pre-trained weights; repeatable.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads.")]
Again = Annotated[bool, typer.Option("--again", help="Train anew what other code of the method finished or began.")]
VariantName = Annotated[
    str | None, typer.Option("--variant", help="Override the protocol's variant: paper, released or usb.")
]
Graph = Annotated[str, typer.Option(help="auto: replay steps as a CUDA graph where that is possible; off.")]
Deterministic = Annotated[bool, typer.Option("--deterministic", help="The same bits each time, which is slower.")]
Compile = Annotated[str, typer.Option("--compile", help="network: let torch.compile rewrite it; off.")]


class ArgumentError(UserError):
    """An argument of the command line that cannot be read."""


def workspace(results: Path, roots: list[str] | None, weights: list[str] | None) -> Workspace:
    """Where the user's files are."""
    from ferbench.bench.data.preparing.cache import cache_root
    from ferbench.bench.tables.runs import Workspace
    from ferbench.bench.training.progress import now_and_then

    return Workspace(results, cache_root(), paths(roots, "--root"), paths(weights, "--weights"), now_and_then())


def set_threads(threads: int | None) -> None:
    """Use this many CPU threads, also for runs that began with another number; None leaves it to them or torch."""
    if threads:
        from ferbench.bench.training.recording.execution import ask_threads

        ask_threads(threads)


def variant(name: str | None) -> Variant | None:
    """The variant by its name. Raises ArgumentError."""
    from ferbench.methods import Variant
    from ferbench.validation import unknown

    if name is not None and name not in get_args(Variant):
        raise ArgumentError(unknown("variant", name, get_args(Variant), "--variant"))
    return cast("Variant | None", name)


def pairs(items: list[str] | None, flag: str) -> dict[str, str]:
    """NAME=VALUE items as a mapping. Raises ArgumentError, which names the flag."""
    found: dict[str, str] = {}
    for item in items or []:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ArgumentError(f"{flag} {item}: write it as NAME=VALUE")
        found[key] = value
    return found


def paths(items: list[str] | None, flag: str) -> dict[str, Path]:
    """NAME=PATH items as a mapping."""
    return {key: Path(value) for key, value in pairs(items, flag).items()}


def values(items: list[str] | None, flag: str) -> dict[str, Any]:
    """KEY=VALUE items with numbers, true, false and null read as such, and anything else as text."""
    found: dict[str, Any] = {}
    for key, text in pairs(items, flag).items():
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        found[key] = value if isinstance(value, str | int | float | bool) or value is None else text
    return found


def listed_values(text: str, flag: str) -> tuple[str, dict[str, Any]]:
    """KIND[:key=value,...] as the kind and its values."""
    kind, _, rest = text.partition(":")
    return kind, values([part for part in rest.split(",") if part], flag)


def numbers(found: dict[str, Any], flag: str) -> dict[str, float | int]:
    """The values, each of which must be a number. Raises ArgumentError."""
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ArgumentError(f"{flag}: {key} must be a number, not {value!r}")
    return found
