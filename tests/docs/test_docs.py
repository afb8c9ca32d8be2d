"""Links lead somewhere, code blocks are code, commands exist with the options they are shown with."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from ferbench.bench.cli import (  # noqa: F401  # importing adds commands
    board,
    cluster,
    data,
    lists,
    own,
    reproducing,
    running,
    studies,
)
from ferbench.bench.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
COMMANDS = typer.main.get_command(app)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for _, text in blocks(page):
            for line in text.splitlines():
                if called := re.match(r"^(?:\.venv/bin/|venv/bin/)?ferbench (.*?)(?:\s{2,}#.*)?$", line):
                    found.append((page.name, called[1]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_are_code(page: Path) -> None:
    for language, text in blocks(page):
        if language == "python":
            ast.parse(text)
        elif language == "toml":
            tomllib.loads(text)


def test_there_are_commands_to_look_at() -> None:
    assert len(commands()) > 15


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_exist_with_their_options(page: str, line: str) -> None:
    words = shlex.split(line)
    while words[0].startswith("--"):
        known = {name for option in COMMANDS.params for name in option.opts}
        assert words[0] in known, f"{page}: {line}"
        words = words[2:]
    command = COMMANDS.commands[words[0]]  # type: ignore[attr-defined]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for word in words[1:]:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{page}: {line}"


def test_pages_are_made_of_every_method_protocol_and_data_set() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import pages  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    made = dict(pages.pages())
    assert "methods/remop.md" in made and "protocols/ssfer.md" in made and "datasets/ferplus.md" in made
    remop = made["methods/remop.md"]
    assert "| `beta` | `0.5` |" in remop and "Images per step" in remop and "remop/4" in remop
    assert "85.81" in made["protocols/remop.md"] and "| `rule` |" in made["datasets/ferplus.md"]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    page = (tmp_path / "methods" / "remop.html").read_text(encoding="utf-8")
    assert "ReMoP" in page
    for made in tmp_path.rglob("*.html"):
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', made.read_text(encoding="utf-8")), (
            made
        )
