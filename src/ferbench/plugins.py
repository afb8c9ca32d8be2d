"""Methods, data sets and backbones from outside the package: a file, a module, or an installed package's entry points.

A plug-in is Python that registers something when it is imported:

    from ferbench.plugins import add_method

    @add_method("my_method")
    class MyMethod(Consistency): ...

`ferbench --plugin FILE.py ...` (repeatable; or the environment variable FERBENCH_PLUGINS, a list like PATH) imports it
before anything is looked up, in every process that the command starts, too. An installed package needs no option: it
names its classes under the entry points `ferbench.methods`, `ferbench.learners`, `ferbench.plug_ins`,
`ferbench.readers` and `ferbench.backbones`, and they are imported when they are asked for. A record keeps the hash of
each plug-in's source.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ferbench.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from ferbench.bench.data.reading.listing import ListedSet
    from ferbench.bench.data.reading.reader import Reader
    from ferbench.methods import Method

VARIABLE = "FERBENCH_PLUGINS"
KINDS = {"ferbench.methods": "alone", "ferbench.learners": "learner", "ferbench.plug_ins": "plug-in"}
M = TypeVar("M", bound="type[Method]")

_loaded: dict[str, str] = {}  # plug-in -> SHA-256 of its source
_announced: set[str] = set()


class PluginError(UserError):
    """A plug-in that cannot be imported, or registers nothing."""


def add_method(name: str, kind: str = "alone") -> Callable[[M], M]:
    """A decorator that registers a method; kind: "alone", "learner" (plug-ins can wrap it) or "plug-in"."""

    def add(method: M) -> M:
        from ferbench.methods import register

        register(name, method, kind)
        return method

    return add


def add_reader(reader: Reader | ListedSet) -> None:
    """Register a data set under its own name."""
    from ferbench.bench.data.sets.readers import READERS

    READERS.add(reader.name, READERS.loaded(reader))


def add_backbone(name: str, feature_width: int, make: Callable[[int], nn.Module]) -> None:
    """Register an encoder: `make(size)` gives a module from images [B, 3, size, size] to [B, feature_width]."""
    from ferbench.bench.training.networks.backbones import BACKBONES, Backbone

    BACKBONES.add(name, Backbone(feature_width, make))


def load(names: Iterable[str] = ()) -> None:
    """Import the plug-ins named here and in FERBENCH_PLUGINS, and announce those of installed packages.

    The names join the environment variable, so that processes started from here import them, too. Raises PluginError.
    """
    asked = [*os.environ.get(VARIABLE, "").split(os.pathsep), *names]
    wanted = list(dict.fromkeys(_absolute(name) for name in asked if name))
    for name in wanted:
        if name not in _loaded:
            _loaded[name] = _import(name)
    if wanted:
        os.environ[VARIABLE] = os.pathsep.join(wanted)
    _announce()


def hashes() -> dict[str, str]:
    """SHA-256 (hex) of the source of each plug-in that was imported by name, by the name of its file or module."""
    return {Path(name).name: digest for name, digest in _loaded.items()}


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if name.endswith(".py") else name


def _import(name: str) -> str:
    """Import a plug-in; returns the hash of its source."""
    path = Path(name)
    try:
        if name.endswith(".py"):
            source = path.read_bytes()
            module_name = f"ferbench_plugin_{path.stem}"
            spec = importlib.util.spec_from_file_location(module_name, path)
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module  # so that its classes can be looked up by it
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(name)
            source = Path(module.__file__ or "").read_bytes()
    except UserError:
        raise
    except OSError as error:
        raise PluginError(f"plug-in {name}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a user's file raises
        raise PluginError(f"plug-in {name}{_where(error, name)}: {_what(error)}") from error
    return hashlib.sha256(source).hexdigest()


def _where(error: BaseException, name: str) -> str:
    """The last line of the plug-in that the error came through."""
    found, trace = "", error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == name:
            found = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return f", line {error.lineno}" if isinstance(error, SyntaxError) else found


def _what(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _announce() -> None:
    """The places that installed packages name; nothing of them is imported here."""
    installed = entry_points()  # once: each call reads every installed package's
    for group in (*KINDS, "ferbench.readers", "ferbench.backbones"):
        for entry in installed.select(group=group):
            key = f"{group}:{entry.name}"
            if key in _announced:
                continue
            _announced.add(key)
            if group in KINDS:
                from ferbench.methods import register

                register(entry.name, entry.value, KINDS[group])
            elif group == "ferbench.readers":
                from ferbench.bench.data.sets.readers import READERS

                READERS.add(entry.name, entry.value)
            else:
                from ferbench.bench.training.networks.backbones import BACKBONES

                BACKBONES.add(entry.name, entry.value)
