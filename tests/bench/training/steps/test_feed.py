"""Rows of bytes hold what was put in, and chunks end where somebody looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ferbench.bench.data.randomness import derive
from ferbench.bench.data.views.batches import Share
from ferbench.bench.training import schedule
from ferbench.bench.training.state import Run
from ferbench.bench.training.steps import feed
from ferbench.bench.training.steps.feed import Feed, Layout

MakeRun = Callable[..., Run]
CPU = torch.device("cpu")


def test_fields_do_not_touch() -> None:
    """Each of its type and shape, aligned, and writing one leaves the others as they were."""
    fields = {
        "bytes": (torch.uint8, (3,)), "scalar": (torch.float64, ()), "whole": (torch.int64, (5,)),
        "table": (torch.int32, (2, 7)), "none": (torch.int32, (4, 0)),
    }  # fmt: skip
    layout = Layout(fields)
    rows = torch.zeros(4, layout.width, dtype=torch.uint8)
    views = layout.views(rows)
    for number, (name, (dtype, shape)) in enumerate(fields.items()):
        assert (views[name].dtype, views[name].shape) == (dtype, (4, *shape))
        views[name].fill_(number + 1)
    for number, name in enumerate(fields):
        assert (views[name] == number + 1).all()
        one = layout.views(rows[2])[name]
        assert one.shape == fields[name][1] and torch.equal(one, views[name][2])
        assert one.numel() == 0 or one.data_ptr() % 16 == rows[2].data_ptr() % 16


@pytest.mark.parametrize(
    ("per_epoch", "expected"), [(7, [4, 3, 1, 4, 2]), (4, [4, 4, 4, 2]), (100, [4, 4, 4, 2])], ids=str
)
def test_chunks_end_at_looks_and_epochs(
    make_tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch, per_epoch: int, expected: list[int]
) -> None:
    monkeypatch.setattr(feed, "LOG_EVERY", 4)
    recipe = replace(make_tiny_run().recipe, epochs=1000, steps_per_epoch=per_epoch)
    source, sizes, step = Feed(recipe, 3, [0.1], None, Share(), CPU), [], 0
    while step < 14:
        sizes.append(len(source.chunk(step).steps))
        step += sizes[-1]
    sizes[-1] -= step - 14
    assert sizes == expected


def test_numbers_of_a_step(make_tiny_run: MakeRun) -> None:
    """Rates have Python's bits on the CPU; the network's seed is that of the step and of the process."""
    recipe = make_tiny_run().recipe
    source = Feed(recipe, 3, [0.1, 0.7], None, Share(1, 2), CPU)
    chunk = source.of([0, 13, 4])
    fields = source.layout.views(chunk.rows)
    for place, step in enumerate((0, 13, 4)):
        factor = schedule.factor(recipe, step)
        assert fields["group rates"][place].tolist() == [0.1 * factor, 0.7 * factor]
        assert fields["rate"][place].item() == recipe.lr * factor
        assert fields["fraction"][place] == torch.tensor(step / 15)
        assert chunk.seeds[place] == derive(3, "network", 2 * step + 1)
