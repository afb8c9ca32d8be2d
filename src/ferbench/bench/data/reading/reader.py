"""What a data set is to the command line and the protocols: a name, options, and how it is prepared and opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.reading.report import PreparedReport
from ferbench.validation import Option, Value, resolve_options

Progress = Callable[[int, int], None]  # called with (images done, images in all)


@dataclass(frozen=True)
class Request:
    """What a reader is asked for: options as the user gave them (checked), where the files and the cache lie."""

    options: Mapping[str, Value]
    root: Path | None
    cache: Path
    partial: bool = False
    verify: bool = False
    threads: int = 2
    progress: Progress | None = None


@dataclass(frozen=True)
class Reader:
    """A data set by name; root_env is the environment variable that may name the user's copy, None: no files needed."""

    name: str
    summary: str
    options: Mapping[str, Option]
    root_env: str | None
    prepare: Callable[[Request], PreparedReport]
    open: Callable[[Request], FaceSet]


def arguments(reader: str, declared: Mapping[str, Option], request: Request) -> dict[str, Any]:
    """The request's options as keyword arguments, with values of the declared types."""
    return cast(dict[str, Any], resolve_options(reader, declared, request.options, DataError))
