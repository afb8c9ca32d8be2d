"""What methods say of their options, remembered between commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ferbench import methods
from ferbench.bench.tables import method_options as remembered
from ferbench.methods import METHODS, PLUG_INS, MethodError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FERBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("atexit.register", lambda keep: kept.append(keep))
    kept: list[object] = []
    remembered._answers.cache_clear()
    yield tmp_path
    remembered._answers.cache_clear()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", ["paper", "released", "usb"])
def test_remembered_is_what_the_method_says(cache: Path, method: str, variant: methods.Variant) -> None:
    options = {"learner": "fixmatch"} if method in PLUG_INS else {}
    for _ in range(2):
        values = remembered.option_values(method, variant, options)
        assert values == methods.option_values(method, variant, options)
        values.clear()  # the caller's own copy
    assert remembered.takes_candidates(method) == METHODS[method].takes_candidates


def test_what_is_refused_is_refused_each_time(cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(MethodError, match="unknown option 'treshold'"):
            remembered.option_values("fixmatch", "paper", {"treshold": 0.9})


def test_an_answer_is_read_back_and_an_old_source_is_forgotten(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = remembered.option_values("fixmatch", "paper", {})
    path = cache / f"methods-{remembered._source()}.json"
    (cache / "methods-0123456789abcdef.json").write_text("{}")
    remembered._keep(path, remembered._answers())
    assert [path.name] == [found.name for found in cache.glob("methods-*.json")]

    remembered._answers.cache_clear()
    monkeypatch.setattr("ferbench.methods.building.option_values", None)  # asking again would fail
    assert remembered.option_values("fixmatch", "paper", {}) == values


@pytest.mark.parametrize("content", ["[", "[]", '{"a": NaN}'])
def test_a_damaged_file_is_none(cache: Path, content: str) -> None:
    (cache / f"methods-{remembered._source()}.json").write_text(content)
    assert remembered.option_values("vanilla", "paper", {}) == {"reduction": "mean"}


def test_a_method_from_outside_is_asked_each_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_places", {**METHODS._places, "mine": METHODS["vanilla"]})
    monkeypatch.setattr(METHODS["vanilla"], "__module__", "mymethod")
    assert remembered.option_values("mine", "paper", {}) == {"reduction": "mean"}
    assert "mine" not in json.dumps(list(remembered._answers()))
