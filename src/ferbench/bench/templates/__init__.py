"""What `ferbench new` writes: small files that run as they are, to be changed into one's own."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path

from ferbench.errors import UserError

KINDS = {"method": "{name}.py", "dataset": "{name}.py", "protocol": "{name}/protocol.toml"}


class TemplateError(UserError):
    """A file that `ferbench new` cannot write."""


def write_new(kind: str, name: str, folder: Path) -> Path:
    """Write a new method, data set or protocol called `name` into `folder`; returns its file. Raises TemplateError."""
    if kind not in KINDS:
        raise TemplateError(f"cannot make a new '{kind}'; valid: {', '.join(KINDS)}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise TemplateError(
            f"'{name}' is no name for a {kind}; write it in small letters, digits and _, such as my_{kind}"
        )
    path = folder / KINDS[kind].format(name=name)
    if path.exists():
        raise TemplateError(f"{path} is there already; choose another name, or move it away")
    title = "".join(part.capitalize() for part in name.split("_"))
    text = files("ferbench.bench.templates").joinpath(f"{kind}.txt").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = text.replace("<name>", name).replace("<NAME>", name.upper()).replace("<Name>", title)
    path.write_text(text, encoding="utf-8")
    return path
