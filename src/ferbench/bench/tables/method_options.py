"""What methods say of their options, remembered between commands, so that a board is shown without importing torch.

The answers are functions of the methods' source alone. They lie in the cache under a digest of that source, so that
none outlives an edit; methods from outside the package are asked each time.
"""

from __future__ import annotations

import atexit
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferbench.bench.data.preparing.cache import cache_root
from ferbench.bench.files import FileError, read_json, write
from ferbench.methods import LEARNERS, METHODS

if TYPE_CHECKING:
    from ferbench.methods import Variant

OURS = "ferbench.methods."


def option_values(method: str, variant: Variant, options: Mapping[str, object]) -> dict[str, object]:
    """`ferbench.methods.option_values`; what it refuses is not remembered."""

    def ask() -> dict[str, object]:
        from ferbench import methods

        return methods.option_values(method, variant, options)

    return dict(_answer(ask, (method, str(options.get("learner", ""))), "values", method, variant, dict(options)))


def completed(method: str, values: Mapping[str, object]) -> dict[str, object]:
    """`ferbench.methods.completed`."""

    def ask() -> dict[str, object]:
        from ferbench import methods

        return methods.completed(method, values)

    return dict(_answer(ask, (method, str(values.get("learner", ""))), "completed", method, dict(values)))


def takes_candidates(method: str) -> bool:
    """Whether a method learns from candidate label sets."""
    return bool(_answer(lambda: METHODS[method].takes_candidates, (method,), "candidates", method))


def _answer(ask: Callable[[], Any], names: tuple[str, ...], *question: object) -> Any:
    if any(_from_outside(name) for name in names):
        return ask()
    known, key = _answers(), json.dumps(question, sort_keys=True)
    if key not in known:
        known[key] = ask()
    return known[key]


def _from_outside(name: str) -> bool:
    return any(name in register and not register.place(name).startswith(OURS) for register in (METHODS, LEARNERS))


@cache
def _answers() -> dict[str, Any]:
    """The answers there are; new ones are written when the process ends."""
    path = cache_root() / f"methods-{_source()}.json"
    try:
        known = read_json(path)
    except FileError:
        known = {}
    before = len(known)
    atexit.register(lambda: _keep(path, known) if len(known) > before else None)
    return known


def _keep(path: Path, known: Mapping[str, Any]) -> None:
    try:
        write(path, lambda file: file.write(json.dumps(known).encode()))
    except FileError:
        return  # they are worked out again
    for old in path.parent.glob("methods-*.json"):
        if old != path:
            old.unlink(missing_ok=True)


@cache
def _source() -> str:
    """A digest of all that decides the answers."""
    root = Path(str(files("ferbench")))
    total = hashlib.sha256()
    for path in sorted([*(root / "methods").rglob("*.py"), root / "validation.py", root / "register.py"]):
        total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]
