"""Names of anybody's files are text on the terminal, never markup and never a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rich.table import Table

from ferbench.bench import terminal
from ferbench.bench.terminal import complain, say, say_text, shown

ODD = {
    "faces [old]": "faces [old]",
    "[/x]": "[/x]",
    "[bold red]a[blink]": "[bold red]a[blink]",
    ":smile:": ":smile:",
    "a\x1b[31mb\x1b]0;owned\x07": r"a\x1b[31mb\x1b]0;owned\x07",
    "a\nferbench: all fine": r"a\nferbench: all fine",
    "a\r\x08\x9bb": r"a\r\x08\x9bb",
    "a\u202eb\u2066c\u2028d": r"a\u202eb\u2066c\u2028d",
    "a\udcffb": r"a\udcffb",
    "Größe γ=20 ✓": "Größe γ=20 ✓",
}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(terminal, "console", terminal.Terminal(width=120))


@pytest.mark.parametrize("text", ODD)
def test_a_line(capsys: pytest.CaptureFixture[str], text: str) -> None:
    say(text)
    assert capsys.readouterr().out == f"{ODD[text]}\n"


@pytest.mark.parametrize("text", ODD)
def test_a_cell_a_head_and_a_title_of_a_table(capsys: pytest.CaptureFixture[str], text: str) -> None:
    table = Table(text, title=text)
    table.add_row(text)
    say(table)
    out = capsys.readouterr().out
    assert out.count(ODD[text]) == 3 and len(out.splitlines()) == 6


@pytest.mark.parametrize("text", ODD)
def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str], text: str) -> None:
    complain(f"{text}: no such file")
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and err.startswith("ferbench: ") and "\x1b" not in err


def test_a_long_line_is_not_broken_and_a_report_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say("x" * 500)
    say_text("one\ntwo [three]")
    assert capsys.readouterr().out == "x" * 500 + "\none\ntwo [three]\n"


@pytest.mark.parametrize("asked", [("--root", "ferplus=faces [old]"), ("--results", "r[/x]")])
def test_a_folder_with_brackets_is_named_whole(ferbench: Callable[..., Any], asked: tuple[str, str]) -> None:
    done = ferbench("train", "vanilla", "--dataset", "ferplus", *asked)
    assert done.code == 2 and "Traceback" not in done.err
    assert "faces [old]" in done.err or asked[0] == "--results"


def test_shown_leaves_ordinary_text_alone() -> None:
    assert shown("FERPlus 10 %, γ = 20: ä") == "FERPlus 10 %, γ = 20: ä"
