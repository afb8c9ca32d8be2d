"""From a protocol's cell to a run: everything that decides it stands in the spec."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.splits.draw import make_split
from ferbench.bench.tables.running.claims import claimed
from ferbench.bench.tables.running.plan import make_plan, seeds_of
from ferbench.bench.tables.runs import Workspace, make_run, resolve_cell
from ferbench.bench.tables.settings import method_settings, settings
from ferbench.bench.training.networks.backbones import WeightsError, make_classifier
from ferbench.bench.training.recording import records
from ferbench.methods import Variant
from ferbench.protocols import cells, load_protocol, select

MakeFaces = Callable[..., FaceSet]


@pytest.fixture
def workspace(tmp_path: Path, drawn_faces: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("FERBENCH_FERPLUS_ROOT", raising=False)
    return Workspace(tmp_path / "results", drawn_faces)


def test_a_cell_becomes_a_run(workspace: Workspace, tiny_protocol: Path) -> None:
    cell = cells(load_protocol(tiny_protocol))[0]
    run = resolve_cell(cell, "cpu", 7, workspace)
    assert json.loads(json.dumps(run.spec)) == run.spec  # plain types alone
    assert run.spec["split"]["fingerprint"] == run.split.fingerprint
    assert run.spec["dataset"]["fingerprint"] == run.spec["test"]["fingerprint"] == run.faces.fingerprint
    assert run.spec["recipe"] == dataclasses.asdict(cell.recipe("cpu"))
    assert (run.seed, run.spec["seed"], run.split.seed) == (7, 7, 7)
    assert run.spec["made_for"]["cell"] == cell.id
    assert run.prepare is None and run.spec["weights"] is None
    assert workspace.folder(run) == workspace.results / "runs" / records.run_id(run.spec)
    assert resolve_cell(cell, "cpu", 7, workspace).spec == run.spec
    assert resolve_cell(cell, "cpu", 7, workspace).faces is run.faces  # opened once


@pytest.mark.parametrize("joint", [False, True])
def test_the_recipe_s_joint_pass_reaches_methods_that_have_one(joint: bool) -> None:
    recipe = dataclasses.replace(load_protocol("remop").recipe("ferplus", "cpu"), joint=joint)
    options = {name: method_settings(name, {}, "paper", recipe)["options"] for name in ("vanilla", "fixmatch")}
    assert options["fixmatch"]["joint"] is joint
    assert method_settings("remop", {"learner": "fixmatch"}, "paper", recipe)["options"]["joint"] is joint
    assert "joint" not in options["vanilla"]


@pytest.mark.parametrize("protocol", ["remop", "leaf", "adacm", "demo"])
def test_the_cpu_presets_have_a_pass_for_each_view(protocol: str) -> None:
    """Shared batch statistics cost more than pseudo-labels bring at their batch size (results/LOG.md)."""
    loaded = load_protocol(protocol)
    assert not any(loaded.recipe(name, "cpu").joint for name in loaded.recipes)


def test_the_recipe_s_joint_pass_does_not_replace_a_wider_one() -> None:
    """Methods and variants that send all views through one pass go on doing so."""
    recipe = dataclasses.replace(load_protocol("demo").recipe("synthetic", "cpu"), joint=True)
    chosen: list[tuple[str, Variant, object]] = [
        ("flexmatch", "paper", True), ("flexmatch", "usb", "all"), ("adamatch", "paper", "all"),
    ]  # fmt: skip
    for method, variant, joint in chosen:
        assert method_settings(method, {}, variant, recipe)["options"]["joint"] == joint


def test_variants_are_different_runs() -> None:
    cell = select("demo/1/remop")[0]
    paper, released = (settings(cell, "cpu", 1, variant) for variant in ("paper", "released"))
    assert paper["options"]["mix"] == "paper" and released["options"]["mix"] == "released"
    assert records.spec_hash(paper) != records.spec_hash(released)


def test_missing_weights_never_fall_back(tmp_path: Path, make_faces: MakeFaces, workspace: Workspace) -> None:
    cell = next(cell for cell in select("remop/1") if cell.recipe("paper").weights == "msceleb" and cell.method)
    assert workspace.weight_file("none") is None
    with pytest.raises(WeightsError, match="starts from weights 'msceleb'; give --weights msceleb=FILE .a ResNet-18"):
        workspace.weight_file(cell.recipe("paper").weights)


def test_weights_are_loaded_and_their_hash_is_part_of_the_run(tmp_path: Path, make_faces: MakeFaces) -> None:
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.pth")
    torch.save({"state_dict": {f"module.{key}": value + 1 for key, value in state.items()}}, tmp_path / "b.pth")
    faces, cell = make_faces(), select("demo/1/vanilla")[0]
    recipe = dataclasses.replace(cell.recipe("cpu"), backbone="resnet18", weights="msceleb", input_size=32)
    base = {**settings(cell, "cpu", 1), "recipe": dataclasses.asdict(recipe)}
    split = make_split(faces, "balanced", {"per_class": 4}, 1)
    runs = []
    for name in ("a.pth", "b.pth"):
        space = Workspace(tmp_path, tmp_path, weights={"msceleb": tmp_path / name})
        runs.append(make_run(base, recipe, faces, split, faces, None, space))
    assert len({records.run_id(run.spec) for run in runs}) == 2
    assert len(runs[0].spec["weights"]["sha256"]) == 64
    model = make_classifier("resnet18", 3, size=32, dropout=0.0)
    assert runs[0].prepare is not None
    assert runs[0].prepare(model) == "loaded 120 tensors from a.pth; left out fc.bias, fc.weight"
    assert torch.equal(model.encoder.state_dict()["conv1.weight"], state["conv1.weight"])


def test_seeds_go_on_from_the_table_s_last() -> None:
    cell = select("demo/1/vanilla")[0]
    assert cell.seeds == (1, 2)
    assert [seeds_of(cell, number) for number in (None, 1, 2, 4)] == [(1, 2), (1,), (1, 2), (1, 2, 3, 4)]


def test_a_plan_says_why_cells_are_left_out(workspace: Workspace) -> None:
    plan = make_plan(select("remop/1"), "cpu", 1, workspace, None)
    reasons = {reason for _, reason in plan.left_out}
    assert not plan.runs
    assert any("ferplus is not prepared" in reason for reason in reasons)
    assert all("\n" not in reason for reason in reasons)


def test_a_plan_runs_first_seeds_first(workspace: Workspace, tiny_protocol: Path) -> None:
    plan = make_plan(cells(load_protocol(tiny_protocol)), "cpu", 2, workspace, None)
    seeds = [seed for _, seed, _ in plan.runs]
    assert seeds == sorted(seeds) and len(set(seeds)) == 2
    assert len({workspace.folder(run) for _, _, run in plan.runs}) == len(plan.runs)


def test_a_lock_is_held_by_one_and_freed_by_the_death_of_its_holder(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with claimed(tmp_path / "run") as free:
            os.write(writing, b"1" if free else b"0")
            time.sleep(60)
        os._exit(0)
    assert os.read(reading, 1) == b"1"
    with claimed(tmp_path / "run") as free:
        assert not free
    os.kill(child, 9)
    os.waitpid(child, 0)
    with claimed(tmp_path / "run") as free:
        assert free


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(records.RunError, match="cannot write .*: Not a directory; choose another --results folder"):
        with claimed(tmp_path / "file" / "runs" / "x"):
            pass


def test_unlabelled_or_test_data_that_is_missing_is_named(workspace: Workspace) -> None:
    cell = next(cell for cell in select("remop/5") if cell.method and cell.unlabelled != ("rest",))
    with pytest.raises(DataError):
        resolve_cell(cell, "cpu", 1, workspace)
