"""Which code made a number: a digest of a method's source, its class and all it uses in `methods/` and `kernels/`.

What counts is what Python is given: comments, docstrings and layout may change and the code stays the same code. The
digest lies in the record and the checkpoint, and is not part of a run's settings: an edited method is the same run, by
other code, and says so.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache

from ferbench.methods import LEARNERS, METHODS, PLUG_INS

OURS = ("ferbench.methods", "ferbench.kernels")
UNKNOWN = "unknown"  # of a run made before the code was kept, or of a class whose source is not there


def method_code(name: str, values: Mapping[str, object]) -> str:
    """16 hex digits for the method under the complete `values`: its own source and its learner's."""
    owners: list[type] = [METHODS[name]]
    if name in PLUG_INS:
        owners.append(LEARNERS[str(values["learner"])])
    return class_code(*owners)


@cache
def class_code(*owners: type) -> str:
    """16 hex digits for these classes and every module they use, bases included."""
    try:
        return digest({module: _source(module) for module in _modules(owners)})
    except (OSError, SyntaxError):
        return UNKNOWN


def digest(sources: Mapping[str, str]) -> str:
    """16 hex digits for modules' texts by name; names of folders do not matter."""
    total = hashlib.sha256()
    for name in sorted(sources):
        total.update(f"{name}\0{_meaning(ast.parse(sources[name]))}\0".encode())
    return total.hexdigest()[:16]


def _modules(owners: tuple[type, ...]) -> set[str]:
    """Names of the modules that the classes lie in or use, directly or not."""
    found: set[str] = set()
    waiting = [base.__module__ for owner in owners for base in owner.__mro__ if _counts(base.__module__, owners)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [used for used in _used(name) if _counts(used, owners)]
    return found


def _counts(module: str, owners: tuple[type, ...]) -> bool:
    """Whether it is ours, or lies in the folder or package of a class from elsewhere."""
    if module in OURS:
        return False  # their __init__ only passes names on
    rooms = {owner.__module__.rpartition(".")[0] or owner.__module__ for owner in owners}
    return any(module == room or module.startswith(f"{room}.") for room in (*OURS, *rooms))


def _used(module: str) -> Iterator[str]:
    """Modules that a module imports, anywhere in it; a name taken from a package is followed to where it is made."""
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(module.partition(".")[0]):
            yield from (_home(node.module, alias.name) for alias in node.names)


def _home(package: str, name: str) -> str:
    """The module in which `name`, imported from `package`, is made."""
    made = getattr(importlib.import_module(package), name, None)
    home = getattr(made, "__module__", None)
    if isinstance(home, str) and home.startswith(package.partition(".")[0]):
        return home
    return f"{package}.{name}" if _origin(f"{package}.{name}") else package


def _source(module: str) -> str:
    """Its text, without importing it. Raises OSError where there is none."""
    origin = _origin(module)
    if origin is None:
        raise OSError(f"{module} has no source")
    with tokenize.open(origin) as file:
        return file.read()


def _origin(module: str) -> str | None:
    known = getattr(sys.modules.get(module), "__file__", None)
    if known:
        return str(known)
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return found.origin if found and found.has_location else None


def _meaning(node: object) -> str:
    """A syntax tree as text, without docstrings and what only some versions of Python note."""
    if isinstance(node, list):
        return f"[{','.join(_meaning(item) for item in node)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = value[1:] if ast.get_docstring(node, clean=False) is not None else value
        if value not in (None, []) and name not in ("ctx", "kind", "type_comment"):
            parts.append(f"{name}={_meaning(value)}")
    return f"{type(node).__name__}({','.join(parts)})"
