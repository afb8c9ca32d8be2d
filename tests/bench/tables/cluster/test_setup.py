"""What the machines of a cluster are told, and what they make of it: no cluster is needed for that."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reliability.lives import row
from reliability.needy import ROWS, write_needy

from ferbench import plugins
from ferbench.bench.tables.cluster import driver, nodes, setup, worker
from ferbench.bench.tables.cluster.driver import Asked, make_setup, orders
from ferbench.bench.tables.cluster.nodes import Code, look
from ferbench.bench.tables.cluster.setup import Setup
from ferbench.bench.tables.running.plan import Plan, make_plan
from ferbench.bench.tables.runs import Workspace
from ferbench.protocols import cells, load_protocol

ASKED = Asked("auto", "cpu", None, ("auto", False, "off"))
NODE = {"Alive": True, "Resources": {"CPU": 1.0, "object_store_memory": 2.0**30}}


@pytest.fixture
def workspace(tmp_path: Path, drawn_faces: Path) -> Workspace:
    return Workspace(tmp_path / "results", drawn_faces)


@pytest.fixture
def plan(tmp_path: Path, workspace: Workspace) -> Plan:
    return make_plan(cells(load_protocol(write_needy(tmp_path / "needy"))), "cpu", 1, workspace, None)


@pytest.fixture
def told(plan: Plan, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """What is sent is held as it is."""
    monkeypatch.setattr(worker.ray, "get", lambda held: held[0])
    worker._places.clear()
    return make_setup(store(), plan, workspace, ASKED)


def store() -> Any:
    return SimpleNamespace(put=lambda held: [held], nodes=lambda: [NODE])


def test_every_run_of_a_table_is_named_by_strings(
    plan: Plan, workspace: Workspace, told: Setup, tmp_path: Path
) -> None:
    """Stages and candidate models too: another machine, without the data and the protocol's folder, makes the same."""
    found = orders(plan, workspace, False)
    assert list(found) == [workspace.folder(run).name for _, _, run in plan.runs]
    place = worker.FarWorkspace(tmp_path / "far", tmp_path / "no cache", setup=told)
    for cell, seed, run in plan.runs:
        order = found[workspace.folder(run).name]
        made = worker._resolve(told, order, place)
        assert made.spec == run.spec and order.title == f"{cell.id} seed {seed}"
    by_cell = {order.title.split("/")[2]: order for order in found.values()}
    assert by_cell["remop"].needs == (by_cell["remop.before"].run,) and by_cell["remop.before"].weights_too
    scorers = [order for order in found.values() if "rc.softmax" in order.title]
    assert by_cell["rc"].needs == tuple(order.run for order in scorers) and all(one.weights_too for one in scorers)
    assert not by_cell["fixmatch"].weights_too and by_cell["remop.before"].cell == "1/remop/c"


def test_a_machine_that_makes_another_run_of_it_says_so(
    plan: Plan, workspace: Workspace, told: Setup, tmp_path: Path
) -> None:
    order = next(iter(orders(plan, workspace, False).values()))
    place = worker.FarWorkspace(tmp_path / "far", tmp_path / "no cache", setup=told)
    with pytest.raises(Exception, match=r"makes synthetic-balanced\S+ of 1/vanilla/c, not synthetic-balanced"):
        worker._resolve(told, replace(order, run=order.run[:-1] + "x"), place)


def test_small_data_travels_and_large_data_must_lie_there(
    plan: Plan, workspace: Workspace, told: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drawn_faces: Path
) -> None:
    (data,) = told.data.values()
    assert data.sent[0].images.base is not None and type(data.sent[0].images).__name__ == "ndarray"
    assert look(told, Code.here()) == []
    monkeypatch.setattr(driver, "SENT", 100)
    far = make_setup(store(), plan, workspace, ASKED)
    (data,) = far.data.values()
    assert data.sent is None
    monkeypatch.setenv("FERBENCH_CACHE", str(drawn_faces))
    assert look(far, Code.here()) == []
    other = {key: replace(value, identity={"fingerprint": "0"}) for key, value in far.data.items()}
    ((line),) = look(replace(far, data=other), Code.here())
    assert "synthetic is too large to be sent: synthetic is another copy on " in line


def test_a_set_that_is_nowhere_is_named_with_the_machine(
    plan: Plan, told: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FERBENCH_CACHE", str(tmp_path / "empty"))
    missing = setup.Data("ferplus", {}, {"fingerprint": "0"})
    monkeypatch.delenv("FERBENCH_FERPLUS_ROOT", raising=False)
    (line,) = look(replace(told, data={"x": missing}), Code.here())
    assert "ferplus is too large to be sent: ferplus is not prepared: run `ferbench prepare ferplus" in line


def test_weights_go_by_their_hash(told: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent ones are written once under their hash; others must lie at the path, and be the same."""
    monkeypatch.setenv("FERBENCH_CACHE", str(tmp_path / "cache"))
    sent = setup.Weights("5a" * 32, "/home/me/msceleb.pt", [b"weights"])
    path = worker._weight_file(replace(told, weights={"msceleb": sent}), "msceleb")
    assert path == tmp_path / "cache" / "weights" / ("5a" * 32) / "msceleb.pt" and path.read_bytes() == b"weights"
    there = replace(sent, sent=None, path=str(path))
    assert worker._weight_file(replace(told, weights={"msceleb": there}), "msceleb") == path
    (line,) = look(replace(told, weights={"msceleb": there}), Code.here())
    assert f"weights 'msceleb' are too large to be sent, and are not at {path}" in line


def test_weights_of_the_runs_are_sent(plan: Plan, workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    file.write_bytes(b"w")
    workspace.weights = {"msceleb": file}
    cell, seed, run = plan.runs[0]
    named = replace(run, spec={**run.spec, "weights": {"name": "msceleb", "sha256": "ab"}})
    found = driver._weights(store(), Plan([(cell, seed, named), *plan.runs[1:]], []), workspace, 100)
    assert found == {"msceleb": setup.Weights("ab", str(file), [b"w"])}
    assert driver._weights(store(), Plan([(cell, seed, named)], []), workspace, 0)["msceleb"].sent is None


def test_other_code_is_said_before_anything_is_imported(told: Setup) -> None:
    here = Code.here()
    assert here.source == setup.source_hash() and here.torch == torch.__version__.partition("+")[0] or "+" in here.torch
    (line,) = look(told, replace(here, source="0" * 16))
    assert f"has {here}, not ferbench {here.ferbench} (source {'0' * 16})" in line and "install the same there" in line


def test_plug_ins_travel_as_their_source(told: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERBENCH_PLUGINS", "")
    source = b"from ferbench import plugins\nSEEN = __file__\n"
    monkeypatch.setattr(worker, "_scratch", lambda: tmp_path)
    monkeypatch.setattr(plugins, "_loaded", {})  # what is imported here stays out of the records of later tests
    worker.load_plugins(replace(told, plugins={"travels.py": source}))
    module = sys.modules["ferbench_plugin_travels"]
    assert Path(module.SEEN).read_bytes() == source and str(tmp_path) in module.SEEN


@pytest.mark.parametrize(
    ("address", "make", "why"),
    [
        ("auto", None, "--ray needs Ray, which is not installed: pip install 'ferbench[cluster]'"),
        ("ray://head:10001", lambda **_: None, "give HOST:PORT or auto, on a machine that is part of the cluster"),
        ("head:6379", ConnectionError("nobody\nthere"), "no Ray cluster is reached from here (nobody there)"),
    ],
    ids=["not installed", "client", "nobody there"],
)
def test_a_cluster_that_cannot_be_used_is_one_line(
    ferbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str,
    make: Callable[..., Any] | Exception | None, why: str,
) -> None:  # fmt: skip
    def init(**_: Any) -> None:
        if isinstance(make, Exception):
            raise make

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init) if make else None)
    write_needy(tmp_path / "needy", [row("vanilla")])
    done = ferbench("reproduce", tmp_path / "needy", "--ray", address, "--results", tmp_path / "r")
    assert done.code == 2 and why in done.err and len(done.err.splitlines()) == 1
    both = ferbench("reproduce", tmp_path / "needy", "--ray", address, "--jobs", 2, "--results", tmp_path / "r")
    assert both.code == 2 and "leave --jobs and torchrun out" in both.err


def test_ray_is_not_imported_unless_asked_for(ferbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    write_needy(tmp_path / "needy", ROWS[:1])
    asked = (tmp_path / "needy", "--results", tmp_path / "r")
    assert ferbench("reproduce", *asked, "--seeds", 1, "--jobs", 1).code == 0
    assert ferbench("status", *asked, "--seeds", 1).code == 0


def test_a_machine_that_is_gone_is_left_out_and_one_that_cannot_import_is_not(
    told: Setup, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray.exceptions import RayTaskError, WorkerCrashedError

    answers: list[Any] = [[], WorkerCrashedError(), RayTaskError("look", "trace\nModuleNotFoundError: ferbench", None)]

    order = iter(range(3))

    def get(number: int) -> Any:
        if isinstance(answers[number], Exception):
            raise answers[number]
        return answers[number]

    fake = SimpleNamespace(
        nodes=lambda: [{**NODE, "NodeID": f"{n:056x}", "NodeManagerHostname": f"m{n}"} for n in range(3)],
        remote=lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: next(order))),
        get=get,
    )
    assert nodes.problems(fake, None, False) == ["m2: ferbench cannot be used there (ModuleNotFoundError: ferbench)"]
    assert "m1 does not answer: " in capfd.readouterr().err


@pytest.mark.parametrize(("on_gpus", "gpus"), [(True, 0.5), (True, 1.0), (False, 1.0)])
def test_a_run_asks_for_its_share_of_a_card_and_waits_for_what_it_needs(
    plan: Plan, workspace: Workspace, on_gpus: bool, gpus: float
) -> None:
    sent: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {}

    def options(**asked: Any) -> Any:
        def remote(setup: Any, order: setup.Order, keeper: Any, *earlier: str) -> str:
            sent[order.title.split("/")[2]] = asked, earlier
            return order.run

        return SimpleNamespace(remote=remote)

    table = object.__new__(driver._Table)
    table._ray = SimpleNamespace(remote=lambda _: SimpleNamespace(options=options))
    table._place, table._asked, table._on_gpus = workspace, replace(ASKED, gpus=gpus), on_gpus
    table._items = {workspace.folder(run).name: (cell, seed, run) for cell, seed, run in plan.runs}
    table._orders, table._sent, table._pending, table._ended = orders(plan, workspace, False), {}, {}, {}
    table._setup = table._keeper = None
    for name in table._items:
        table._send(name)
    stage = next(name for name, order in table._orders.items() if "remop.before" in order.title)
    assert sent["remop"][1] == sent["ssfer"][1] == (stage,) and sent["fixmatch"][1] == ()
    assert len(sent["rc"][1]) == 2 and set(sent["rc"][1]) <= set(table._items)
    for asked, _ in sent.values():
        assert (asked["num_gpus"], asked["num_cpus"]) == (gpus if on_gpus else 0, 1)
        assert asked["max_retries"] == driver.TRIES
