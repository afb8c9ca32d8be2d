"""A process of a torchrun that dies leaves the others with one line each, not with a traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ferbench.bench.cli import lists

LOST = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_rest_say_so_in_one_line(ferbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    def lost(*_: object) -> None:
        raise RuntimeError(LOST)

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(lists, "say", lost)
    done = ferbench("list", "methods")
    assert done.code == 2 and "another process of this run has ended" in done.error()


def test_without_torchrun_it_is_a_fault_of_ours(ferbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise RuntimeError(LOST)

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(lists, "say", lost)
    with pytest.raises(RuntimeError, match="closed by peer"):
        ferbench("list", "methods")
