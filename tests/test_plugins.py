"""Methods, data sets and backbones from outside the package: found, handed on to workers, hashed, and checked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ferbench import plugins
from ferbench.bench.cli import main
from ferbench.bench.data.sets.readers import READERS
from ferbench.bench.studies.contract import check_method
from ferbench.bench.templates import KINDS, write_new
from ferbench.bench.training.networks.backbones import BACKBONES, WeightsError, make_classifier
from ferbench.bench.training.recording import records
from ferbench.methods import LEARNERS, METHODS, PLUG_INS

Command = Callable[..., int]


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    for register in (METHODS, LEARNERS, PLUG_INS, READERS, BACKBONES):
        monkeypatch.setattr(register, "_places", dict(register._places))
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_announced", set())
    monkeypatch.setenv(plugins.VARIABLE, "")
    yield


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ferbench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code

    return call


def test_a_new_method_keeps_the_contract_and_trains(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("new", "method", "mine", "--folder", str(tmp_path)) == 0
    path = tmp_path / "mine.py"
    assert command("--plugin", str(path), "check", "mine") == 0
    printed = capsys.readouterr().out
    assert printed.count("kept  ") == 7 and "BROKEN" not in printed
    small = [word for key in ("epochs=1", "steps_per_epoch=2", "batch_size=2") for word in ("--recipe", key)]
    results = tmp_path / "results"
    assert (
        command("--plugin", str(path), "train", "mine", "--split", "total:labels=40", *small, "--results", str(results))
        == 0
    )
    (record,) = results.glob("runs/*/record.json")
    assert records.read_json(record)["plugins"] == {"mine.py": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert issubclass(METHODS["mine"], LEARNERS["fixmatch"].__mro__[1])
    code = records.read_json(record)["code"]
    assert len(code) == 16 and code != "unknown"


def test_a_new_data_set_is_read(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_new("dataset", "drawn", tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for part, number in (("train", 3), ("test", 1)):
        for name in ("happiness", "fear"):
            for i in range(number):
                pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(images / f"{part}_{name}_{i}.png")
    assert command("--plugin", str(path), "check", "drawn", "--root", f"drawn={images}") == 0
    assert "BROKEN" not in capsys.readouterr().out
    (images / "other.png").write_bytes((images / "test_fear_0.png").read_bytes())
    assert command("--plugin", str(path), "prepare", "drawn", "--root", str(images)) == 2
    assert "expected files like train_happiness_0001.png, found other.png" in capsys.readouterr().err


def test_a_new_protocol_resolves(tmp_path: Path, command: Command) -> None:
    folder = write_new("protocol", "table", tmp_path).parent
    assert command("check", str(folder)) == 0
    assert command("reproduce", str(folder), "--dry-run", "--results", str(tmp_path / "results")) == 0


def test_new_files_are_short_and_never_written_over(tmp_path: Path, command: Command) -> None:
    for kind in KINDS:
        path = write_new(kind, f"my_{kind}", tmp_path)
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60 and "<" + "name>" not in path.read_text()
        assert command("new", kind, f"my_{kind}", "--folder", str(tmp_path)) == 2
    for wrong in (
        ("new", "thing", "a"),
        ("new", "method", "../a"),
        ("new", "method", "Big"),
        ("new", "method", "class"),
    ):
        assert command(*wrong, "--folder", str(tmp_path)) == 2


@pytest.mark.slow
def test_workers_import_it_too(tmp_path: Path) -> None:
    """From an empty folder, as a user would: two processes share the runs of a table with a method of one's own."""
    path, folder = write_new("method", "mine", tmp_path), write_new("protocol", "table", tmp_path).parent
    text = (folder / "protocol.toml").read_text().replace('method = "fixmatch"', 'method = "mine"')
    text = text.replace("epochs = 5", "epochs = 1").replace("steps_per_epoch = 100", "steps_per_epoch = 2")
    (folder / "protocol.toml").write_text(text)
    environment = {**os.environ, plugins.VARIABLE: "", "FERBENCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "ferbench.bench.cli", "--plugin", path.name, "reproduce", folder.name, "--jobs", "2"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not run" not in done.stdout
    found = list((tmp_path / "results").glob("runs/*-mine-*/record.json"))
    assert len(found) == 2 and all("mine.py" in records.read_json(record)["plugins"] for record in found)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 +", "line 1: SyntaxError"),
        ("\n\nraise ValueError('a\\nb')", "line 3: ValueError: a b"),
        ("import nothing_like_it", "line 1: ModuleNotFoundError"),
        (
            "from ferbench.plugins import add_method\n@add_method('fixmatch')\nclass A: ...",
            "there is a method 'fixmatch'",
        ),
    ],
)
def test_a_broken_plug_in_is_one_line(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source)
    assert command("--plugin", str(path), "list", "methods") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_plug_in_that_is_not_there(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--plugin", str(tmp_path / "none.py"), "list", "methods") == 2
    assert "none.py: cannot be read" in capsys.readouterr().err
    assert command("--plugin", "no_module_of_this_name", "list", "methods") == 2
    assert command("check", "no_method_of_this_name") == 2


def test_entry_points_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported before it is asked for."""
    place = "ferbench.methods.general.vanilla:Vanilla"
    installed = [
        EntryPoint("theirs", place, "ferbench.methods"),
        EntryPoint("around", "no.module:Nothing", "ferbench.plug_ins"),
        EntryPoint("faraway", "ferbench.bench.data.sets.own.folder:FOLDER_SET", "ferbench.readers"),
        EntryPoint("nowhere", "no.module:NETWORK", "ferbench.backbones"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda: EntryPoints(installed))
    plugins.load()
    plugins.load()
    assert METHODS["theirs"] is METHODS["vanilla"] and "around" in PLUG_INS and READERS["faraway"].name == "folder"
    assert "nowhere" in BACKBONES


def test_a_backbone_of_ones_own_and_any_of_timm() -> None:
    plugins.add_backbone(
        "flat", 5, lambda size: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * size**2, 5))
    )
    assert make_classifier("flat", 7, size=8, dropout=0.0)(torch.zeros(2, 3, 8, 8)).logits.shape == (2, 7)
    with pytest.raises(WeightsError, match="there is a backbone 'flat' already"):
        plugins.add_backbone("flat", 5, lambda size: torch.nn.Identity())
    for name, size in (("resnet10t", 32), ("vit_tiny_patch16_224", 48)):
        model = make_classifier(f"timm:{name}", 7, size=size, dropout=0.0)
        assert model.training and model(torch.zeros(2, 3, size, size)).logits.shape == (2, 7)
    with pytest.raises(WeightsError, match="did you mean 'resnet10t'"):
        make_classifier("timm:resnet10", 7, size=32, dropout=0.0)
    with pytest.raises(WeightsError, match="cannot be made for 8 pixels"):
        make_classifier("timm:vit_tiny_patch16_224", 7, size=8, dropout=0.0)


BAD = {
    "item": ("float(passes.labelled.logits.sum())", "a step does not wait for the device"),
    "outside": ("self.__dict__.update(n=getattr(self, 'n', 0) + 1) or self.n", "its state is its whole state"),
    "nan": ("passes.labelled.logits.sum() * float('nan')", "a step gives finite losses that reach parameters"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_a_method_must_not_do_is_named(tmp_path: Path, kind: str) -> None:
    bad, promise = BAD[kind]
    path = write_new("method", f"bad_{kind}", tmp_path)
    text = path.read_text().replace("        return {", f"        supervised = supervised + ({bad})\n        return {{")
    path.write_text(text)
    plugins.load([str(path)])
    assert promise in [one for one, wrong in check_method(f"bad_{kind}") if wrong]


@pytest.mark.parametrize("name", ["vanilla", "fixmatch", "remop", "leaf", "rc", "mixmatch"])
def test_what_comes_with_the_package_keeps_it(name: str) -> None:
    assert not [(promise, wrong) for promise, wrong in check_method(name) if wrong]
