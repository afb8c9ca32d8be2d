"""What a person is told while images are prepared."""

from __future__ import annotations

import io
import time

import pytest

from ferbench.bench.terminal import Terminal
from ferbench.bench.training.progress import Bar, now_and_then


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


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_shows_steps_time_left_and_loss(width: int) -> None:
    """A run's name is about 60 characters long: it has a line of its own, so that the bar is never squeezed."""
    file = io.StringIO()
    console = Terminal(file=file, force_terminal=True, width=width, color_system=None)
    name = "synthetic-long_tailed-400-20-fixmatch-paper-cpu-s1-1339abcd"
    means = {"loss": 1.645, "loss/supervised": 1.64, "loss/unsupervised": 0.005}
    with Bar(console, name) as bar:
        bar.step(2150, 8000, means)
        file.truncate(0)
        bar._progress.refresh()
        text = file.getvalue()
    assert "━" * 4 in text and "2150/8000" in text and "loss 1.645" in text
    assert "--:--" in text or "0:" in text  # time left, or that it is not known yet
    assert max(len(line) for line in text.replace("\r", "\n").split("\n") if "2150" in line) < width + 20
