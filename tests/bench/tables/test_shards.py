"""A table in parts: together they are the whole, none needs anything of another, and they are of like size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reliability.needy import write_needy

from ferbench.bench.tables.running.plan import Plan, make_plan, needs
from ferbench.bench.tables.running.shards import Shard, ShardError, part_of
from ferbench.bench.tables.runs import Workspace
from ferbench.protocols import cells, load_protocol


@pytest.fixture
def workspace(tmp_path: Path, drawn_faces: Path) -> Workspace:
    return Workspace(tmp_path / "results", drawn_faces)


@pytest.fixture
def plan(tmp_path: Path, workspace: Workspace) -> Plan:
    return make_plan(cells(load_protocol(write_needy(tmp_path / "needy"))), "cpu", None, workspace, None)


@pytest.mark.parametrize("of", [1, 2, 3, 4, 7, 30])
def test_the_parts_are_the_whole_and_need_nothing_of_each_other(plan: Plan, workspace: Workspace, of: int) -> None:
    found: list[Path] = []
    for number in range(1, of + 1):
        part, said = part_of(plan, workspace, Shard(number, of))
        folders = [workspace.folder(run) for _, _, run in part.runs]
        for cell, _, run in part.runs:
            assert all(workspace.folder(needed) in folders for _, needed in needs(cell, run))
        assert f"shard {number}/{of} of plan " in said and f"{len(folders)} of {len(plan.runs)} runs" in said
        found += folders
    assert sorted(found) == sorted(workspace.folder(run) for _, _, run in plan.runs)
    assert len(set(found)) == len(found)


def test_parts_are_of_like_size(plan: Plan, workspace: Workspace) -> None:
    """Three seeds of two groups with 27 and 12 steps and two runs of 6: three parts take as many steps each."""
    steps = []
    for number in (1, 2, 3):
        part, _ = part_of(plan, workspace, Shard(number, 3))
        steps.append(sum(run.recipe.epochs * run.recipe.steps_per_epoch for _, _, run in part.runs))
    assert sum(steps) == sum(run.recipe.epochs * run.recipe.steps_per_epoch for _, _, run in plan.runs)
    assert max(steps) - min(steps) <= 6


def test_every_machine_divides_alike(plan: Plan, workspace: Workspace) -> None:
    """In whatever order the plan stands, and whatever is finished."""
    turned = Plan(plan.runs[::-1], [])
    for number in (1, 2, 3, 4):
        there, said = part_of(plan, workspace, Shard(number, 4))
        here, repeated = part_of(turned, workspace, Shard(number, 4))
        assert {workspace.folder(run) for _, _, run in here.runs} == {workspace.folder(run) for _, _, run in there.runs}
        assert said == repeated


def test_too_many_parts_are_said(plan: Plan, workspace: Workspace) -> None:
    assert "12 groups that need each other" in part_of(plan, workspace, Shard(13, 13))[1]
    assert not part_of(plan, workspace, Shard(13, 13))[0].runs


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/0", "-1/2", "1/2/3", "1 /2"])
def test_a_part_that_there_is_not(text: str) -> None:
    with pytest.raises(ShardError, match=re.escape("write it as I/N, I from 1 to N, such as 2/8")):
        Shard.read(text)
