"""What a person is told while images are prepared."""

from __future__ import annotations

import time

import pytest

from ferbench.bench.training.progress import now_and_then


def test_preparing_speaks_every_ten_seconds_and_not_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = now_and_then()
    for done, passed in ((100, 9.0), (200, 10.5), (300, 20.0), (35_000, 21.0)):
        now = 100.0 + passed
        progress(done, 35_710)
    assert capsys.readouterr().err.splitlines() == [
        "preparing: 200 of 35,710 images",
        "preparing: 35,000 of 35,710 images",
    ]
