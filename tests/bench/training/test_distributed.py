"""Two processes that share every batch end where one process with the whole batch ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.pretraining.pretrain import pretrain
from ferbench.bench.pretraining.settings import Settings
from ferbench.bench.pretraining.state import resolve
from ferbench.bench.tables.running.claims import claimed
from ferbench.bench.training import train as loop
from ferbench.bench.training.interrupt import Interrupted
from ferbench.bench.training.processes import agreed, largest, process_group, rank
from ferbench.bench.training.recording import records
from ferbench.bench.training.state import Run
from ferbench.bench.training.steps.sums import Sums
from ferbench.bench.training.train import train

MakeRun = Callable[..., Run]
# No batch norm and no dropout: both see the rows of one process alone.
SMALL = {"backbone": "vit_tiny", "dropout": 0.0, "epochs": 2, "steps_per_epoch": 2, "batch_size": 4, "mu": 2}
STATE = {"optimizer": "sgd", "lr": 0.01, "ema_buffers": "copy"}  # Adam would blow rounding up where gradients vanish


def together(world: int, work: Callable[[int], object], folder: Path) -> list[int]:
    """Run `work(rank)` in `world` forked processes of one gloo group; their exit codes."""

    def start(number: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=world)
        work(number)
        dist.destroy_process_group()

    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=start, args=(number,)) for number in range(world)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    return [child.exitcode if child.exitcode is not None else -1 for child in children]


def checkpoint(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return loaded


def largest_difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


METHODS = [
    ("fixmatch", {"threshold": 0.5}),
    ("fixmatch", {"threshold": 0.5, "joint": True, "reduction": "sum", "unlabelled_weight": 0.3}),
    ("remop", {"threshold": 0.5, "lambda_center": 1.0}),  # large, so that a wrong mean over kept rows shows
    ("remop", {"threshold": 0.5, "lambda_center": 0.01, "reduction": "sum"}),
    ("adacm", {"initial_threshold": 0.5, "contrast_weight": 1.0, "temperature": 0.5}),
    ("adacm", {"initial_threshold": 0.5, "denominator": "batch", "symmetric": True, "joint": "all"}),
    ("remop", {"learner": "adacm", "initial_threshold": 0.5, "lambda_center": 1.0}),
    ("leaf", {"threshold": 0.5, "gate": "sample"}),
    ("leaf", {"learner": "adacm", "initial_threshold": 0.5, "scores": "logits", "rescale": True, "gate": "batch"}),
    ("pll_fer", {"warmup_epochs": 0, "threshold": 0.02, "decoder_dropout": 0.0, "tau": 0.5}),
    ("rc", {"reduction": "sum"}),
    ("lw", {}),
    ("crpll", {"ramp": 0.0}),
    ("ssfer", {"threshold": 0.5, "decay": 0.5}),
    ("flexmatch", {"threshold": 0.4}),
    ("freematch", {"fairness_weight": 0.0}),
    ("softmatch", {}),
    ("uda", {"threshold": 0.5, "tsa": "linear"}),
    ("adamatch", {"interpolate": False}),
    ("defixmatch", {"threshold": 0.5}),
    ("simmatch", {"threshold": 0.5, "decay": 0.5}),
    ("ccssl", {"threshold": 0.5}),
    ("lion", {"threshold": 0.5, "threshold_step": 0.0}),
    ("inpl", {"quantile": 0.5}),
    ("scn", {"relabel_epoch": 1, "relabel_margin": 0.0, "margin": 1.0, "beta": 0.8}),  # 3 rows of 4, 1 of 2
    ("eac", {"erasing": 0.0}),
]
ALL_KEPT = ("flexmatch", "freematch", "softmatch")  # in the first steps


@pytest.mark.parametrize(("method", "options"), METHODS, ids=lambda value: str(value).replace(" ", ""))
def test_two_processes_equal_one(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, options: dict[str, Any]
) -> None:
    changes = {**SMALL, **STATE, "options": options, "lr": 0.001 if "reduction" in options else 0.01}
    changes |= {"epochs": 1, "steps_per_epoch": 3, "mu": 4}
    kept: list[torch.Tensor] = []
    original = Sums.add

    def spy(sums: Any, loss: Any, result: Any, truth: Any) -> None:
        if result.pseudo is not None:
            kept.append(result.pseudo.keep)
        original(sums, loss, result, truth)

    with monkeypatch.context() as patch:
        patch.setattr(Sums, "add", spy)
        train(make_tiny_run(method, **changes), tmp_path / "one")
    # the processes keep different numbers of their rows, else a mean over them would be right by accident
    assert method in ALL_KEPT or not kept or any(keep[0::2].sum() != keep[1::2].sum() for keep in kept)

    def work(number: int) -> None:
        train(make_tiny_run(method, **changes), tmp_path / f"rank{number}")

    assert together(2, work, tmp_path) == [0, 0]
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "rank0")
    start = loop.make_state(make_tiny_run(method, **changes), torch.device("cpu"), loop.Silent()).method.state_dict()
    assert largest_difference(start, one["method"]) > 1e-3
    for part in ("method", "average"):
        assert largest_difference(one[part], two[part]) < 1e-5
    predictions = [dict(np.load(tmp_path / name / "predictions.npz")) for name in ("one", "rank0")]
    for name, values in predictions[0].items():
        if values.dtype.kind == "U":
            np.testing.assert_array_equal(predictions[1][name], values)
        else:
            np.testing.assert_allclose(predictions[1][name], values, atol=2e-3 if name == "features" else 1e-4)
    assert not (tmp_path / "rank1").exists()  # the second process writes nothing


def test_a_batch_that_cannot_be_shared_evenly_is_refused(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    def work(number: int) -> None:
        with pytest.raises(records.RunError, match="2 processes cannot share batch_size=3 evenly"):
            train(make_tiny_run("vanilla", batch_size=3), tmp_path / "run")

    assert together(2, work, tmp_path) == [0, 0]


@pytest.mark.parametrize("asked", [0, 1])
def test_all_processes_stop_after_the_same_step(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    """Only one of them gets the signal, inside an epoch; they agree at the epoch's end, and go on from there."""
    changes = {**SMALL, **STATE}
    whole = make_tiny_run("fixmatch", **changes)
    train(whole, tmp_path / "one")
    original = Sums.add

    def work(number: int) -> None:
        pending = [number == asked]

        def with_signal(*args: Any) -> None:
            if pending and pending.pop():
                os.kill(os.getpid(), signal.SIGTERM)
            original(*args)

        monkeypatch.setattr(Sums, "add", with_signal)
        with pytest.raises(Interrupted, match="stopped after step 2 of 4") as caught:
            train(whole, tmp_path / "run")
        assert caught.value.exit_code == 143
        monkeypatch.setattr(Sums, "add", original)
        dist.barrier()
        train(whole, tmp_path / "run")

    assert together(2, work, tmp_path) == [0, 0]
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "run")
    assert (one["step"], two["step"]) == (4, 4)
    assert largest_difference(one["method"], two["method"]) < 1e-5


def test_the_first_process_holds_the_lock_for_all(tmp_path: Path) -> None:
    def work(number: int) -> None:
        assert rank() == number
        assert agreed(number == 0) is True
        assert largest(number * 15, torch.device("cpu")) == 15
        with claimed(tmp_path / "run") as free:
            assert free
            dist.barrier()
        dist.barrier()
        (tmp_path / str(number)).touch()

    assert together(2, work, tmp_path) == [0, 0]
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with process_group():
        assert not dist.is_initialized()
        assert (rank(), agreed(False), largest(3, torch.device("cpu"))) == (0, False, 3)


@pytest.mark.slow
def test_torchrun_on_the_command_line(tmp_path: Path) -> None:
    """Two processes, one line each on stdout from the first alone; the same record as without torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["train", "fixmatch", "--data-option", "scale=0.01", "--split", "balanced:per_class=2"]
    # plain descent: Adam would turn the rounding of a gradient near zero into a step of full length
    for change in ("backbone=vit_tiny", "dropout=0", "epochs=1", "steps_per_epoch=3", "batch_size=4", "input_size=16",
                   "optimizer=sgd", "lr=0.1"):  # fmt: skip
        arguments += ["--recipe", change]
    environment = {**os.environ, "FERBENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    outputs = {}
    for name, launcher in {
        "one": [sys.executable, "-m", "ferbench.bench.cli"],
        "two": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "-m",
                "ferbench.bench.cli"],
    }.items():  # fmt: skip
        done = subprocess.run(
            [*launcher, *arguments, "--results", str(tmp_path / name)],
            env=environment, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        outputs[name] = done.stdout.replace(f"/{name}/", "/")
    assert outputs["two"].count("record:") == outputs["one"].count("record:") == 1
    folders = [next((tmp_path / name / "runs").iterdir()) for name in ("one", "two")]
    assert folders[0].name == folders[1].name
    first, second = (checkpoint(folder) for folder in folders)
    assert largest_difference(first["method"], second["method"]) < 1e-5
    files = [{path.name for path in folder.iterdir()} - {".lock"} for folder in folders]
    assert files[0] == files[1]


def test_two_processes_pre_train_as_one(make_faces: Callable[..., FaceSet], tmp_path: Path) -> None:
    """Views and masks are drawn for the whole batch, so the rows' mean gradient is the batch's."""
    settings = Settings(
        backbone="vit_tiny", input_size=16, batch_size=4, epochs=2, steps_per_epoch=2, warmup_epochs=0, lr=1e-4,
        mean_std="imagenet",
    )  # fmt: skip
    options = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    run = resolve("mae", options, settings, [({}, make_faces())], 1)
    pretrain(run, tmp_path / "one")
    assert together(2, lambda number: pretrain(run, tmp_path / "two"), tmp_path) == [0, 0]
    states = [checkpoint(tmp_path / name)["objective"] for name in ("one", "two")]
    assert largest_difference(*states) < 4e-4  # AdamW's step is lr where a gradient is nearly zero, whatever its sign
    moved = torch.cat([(states[0][name] - states[1][name]).abs().flatten() for name in states[0]])
    assert moved.mean() < 1e-6
