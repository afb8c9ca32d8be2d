"""Processes of one command take the GPUs in turn."""

from __future__ import annotations

import pytest
import torch

from ferbench.bench.tables.running import reproduce, workers


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [(None, 2, ["0", "1", "0"]), ("3,5", 2, ["3", "5", "3"]), ("GPU-a", 1, ["GPU-a"] * 3), (None, 0, [None] * 3)],
)
def test_workers_are_spread_over_the_gpus(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, expected: list[str | None]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    found = workers.gpus()
    given = [workers.worker_environment(number, found).get("CUDA_VISIBLE_DEVICES") for number in range(3)]
    assert given == expected
    if count:
        assert (reproduce.default_jobs(9), reproduce.default_jobs(1)) == (count, 1)
