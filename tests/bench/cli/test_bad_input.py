"""Every mistake ends in one line on stderr that says what, where and how to mend it; what was there before survives."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ferbench.bench import files
from ferbench.protocols.loader import FOLDER

Command = Callable[..., Any]

TRAIN = {
    "unknown method": (["fixmatsch"], "unknown method 'fixmatsch'; did you mean 'fixmatch'?"),
    "unknown method option": (
        ["fixmatch", "--option", "treshold=1"],
        "fixmatch: unknown option 'treshold'; did you mean 'threshold'?",
    ),
    "text for a number": (
        ["fixmatch", "--option", "threshold=high"],
        "fixmatch.threshold: expected a number, got 'high'",
    ),
    "unknown choice": (["remop", "--option", "etf=x"], "remop.etf: 'x' is not known; valid: paper, released"),
    "misspelt reduction": (
        ["vanilla", "--option", "reduction=maen"],
        "vanilla.reduction: 'maen' is not known; did you mean 'mean'?",
    ),
    "number for true": (
        ["remop", "--option", "mixture_at_test=3"],
        "remop.mixture_at_test: expected true or false, got 3",
    ),
    "unknown learner": (["remop", "--option", "learner=x"], "remop: unknown learner 'x'; valid: vanilla"),
    "option without value": (["fixmatch", "--option", "joint"], "--option joint: write it as NAME=VALUE"),
    "unknown recipe key": (["vanilla", "--recipe", "epoch=3"], "--recipe: unknown key 'epoch'; did you mean 'epochs'?"),
    "recipe out of range": (["vanilla", "--recipe", "epochs=0"], "--recipe.epochs: must be at least 1, got 0"),
    "recipe of another type": (["vanilla", "--recipe", "lr=fast"], "--recipe.lr: expected a number, got 'fast'"),
    "unknown backbone": (["vanilla", "--recipe", "backbone=resnet9"], "unknown backbone 'resnet9'; did you mean"),
    "missing weights": (["vanilla", "--recipe", "weights=msceleb"], "give --weights msceleb=FILE (a ResNet-18 trained"),
    "absent weights": (
        ["vanilla", "--recipe", "weights=msceleb", "--weights", "msceleb=no.pth"],
        "no.pth: cannot be read: No such",
    ),
    "unknown data set": (["vanilla", "--dataset", "rafdbb"], "unknown data set 'rafdbb'; did you mean 'rafdb'?"),
    "unknown reader option": (
        ["vanilla", "--data-option", "scal=1"],
        "synthetic: unknown option 'scal'; did you mean 'scale'?",
    ),
    "data that is not there": (["vanilla", "--dataset", "ferplus"], "ferplus is not prepared: run `ferbench prep"),
    "missing root": (
        ["vanilla", "--dataset", "ferplus", "--root", "ferplus=/no/where"],
        "no such folder: /no/where; --root",
    ),
    "root without a name": (["vanilla", "--root", "/no/where"], "--root /no/where: write it as NAME=VALUE"),
    "N1 too large": (
        ["vanilla", "--split", "long_tailed:n1=40,gamma=2"],
        "(asked/there): neutral 35/25, surprise 28/13, sadness 31/20, anger 25/7, disgust 22/7, fear 20/3; ask for",
    ),
    "unknown split": (["vanilla", "--split", "long_tail:n1=4"], "unknown split recipe 'long_tail'; valid: full, long"),
    "missing split parameter": (["vanilla", "--split", "long_tailed:n1=4"], "split long_tailed: needs 'gamma'"),
    "split parameter": (["vanilla", "--split", "balanced:per_class=x"], "--split: per_class must be a number, not 'x'"),
    "broken split file": (["vanilla", "--split", "broken.json"], "broken.json: not a readable split file"),
    "no unlabelled images": (["fixmatch", "--split", "full"], "there are no unlabelled images to draw from"),
    "unknown variant": (["vanilla", "--variant", "both"], "--variant: unknown variant 'both'; valid: paper, released"),
    "unknown preset": (["vanilla", "--preset", "gpu"], "demo has no preset 'gpu'; it has: cpu"),
    "unknown protocol": (["vanilla", "--like", "dmeo/synthetic"], "no protocol 'dmeo'; did you mean 'demo'?"),
    "unknown recipe": (["vanilla", "--like", "demo/x"], "protocol demo: unknown recipe 'x'; valid: synthetic"),
    "unknown flag": (["vanilla", "--sed", "3"], "No such option: --sed (Possible options: --preset, --seed)"),
    "no method": ([], "Missing argument 'method'. (see ferbench train --help)"),
    "results below a file": (["vanilla", "--results", "broken.json/x"], "Not a directory; choose another --results"),
    "absurd padding": (
        ["vanilla", "--recipe", "crop_padding=200000"],
        "crop_padding: must be at most 4096, got",
    ),
    "absurd learning rate": (
        ["fixmatch", "--recipe", "lr=1e30"],
        "loss/unsupervised not finite by step 2;",
    ),
}


@pytest.mark.parametrize("mistake", TRAIN)
def test_train(ferbench: Command, tiny_arguments: list[str], tmp_path: Path, mistake: str) -> None:
    (tmp_path / "broken.json").write_text("{")
    arguments, expected = TRAIN[mistake]
    done = ferbench("train", *([] if "ferplus" in arguments else tiny_arguments), *arguments)
    assert done.code == 2
    assert expected in done.error()
    assert not list(tmp_path.glob("results/runs/*/record.json"))


OTHERS = {
    "unknown command": (["trian"], "No such command 'trian'"),
    "unknown list": (["list", "x"], "unknown list 'x'; valid: methods, protocols, datasets"),
    "unknown protocol": (["reproduce", "remo/4"], "no protocol 'remo'; did you mean 'remop'?"),
    "unknown table": (["reproduce", "remop/9"], "remop has no table '9'; it has: 1, 2, 3, 4, 5"),
    "unknown row": (["reproduce", "remop/4/fixmach"], "has no row 'fixmach' (did you mean 'fixmatch'?)"),
    "unknown column": (["reproduce", "remop/4/fixmatch/x"], "table 4 of remop has no column 'x'; it has: ckplus"),
    "unknown --column": (["reproduce", "remop/4", "--column", "x"], "remop/4: unknown column 'x'; valid: ckplus"),
    "too many parts": (["reproduce", "remop/4/a/b/c"], "has too many parts; write PAPER/TABLE/ROW/COLUMN"),
    "unknown preset": (["reproduce", "demo", "--preset", "gpu"], "demo has no preset 'gpu'; it has: cpu"),
    "no seed": (["reproduce", "demo", "--seeds", "0"], "Invalid value for '--seeds'"),
    "nothing to run": (["reproduce", "remop/4", "--preset", "cpu"], "remop/4: nothing can be run; the lines above"),
    "missing weights": (["reproduce", "remop/4", "--jobs", "1"], "remop/4: nothing can be run; the lines above"),
    "unknown selection": (
        ["leaderboard", "--selection", "best"],
        "--selection: unknown selection 'best'; valid: last, best-on-val",
    ),
    "leaderboard below a file": (
        ["leaderboard", "--results", "file/x"],
        "file/x: no such results folder",
    ),
    "reader option": (
        ["prepare", "synthetic", "--option", "classes=9"],
        "synthetic.classes: 9 is not known; valid: 7, 8",
    ),
    "missing root": (["prepare", "ferplus", "--root", "nowhere"], "no such folder: nowhere; --root"),
    "no root": (["prepare", "ferplus"], "ferplus needs your copy of the files: run `ferbench prepare"),
}


@pytest.mark.parametrize("mistake", OTHERS)
def test_other_commands(ferbench: Command, tmp_path: Path, mistake: str) -> None:
    (tmp_path / "file").write_text("")
    arguments, expected = OTHERS[mistake]
    done = ferbench(*arguments)
    assert done.code == 2
    assert expected in done.error()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epochs =", "epoch =", "recipes.synthetic: unknown key 'epoch'; did you mean 'epochs'?"),
        ("[[tables]]", "[[table]]", "unknown key 'table'; did you mean 'tables'?"),
        ('paper = "demo"', 'paper = "demo', "protocol.toml: cannot be read: "),
        ('method = "vanilla"', 'method = "vanila"', "not implemented yet: vanila"),
    ],
    ids=["misspelt key", "misspelt table", "no TOML", "unknown method"],
)
def test_a_protocol_of_ones_own(ferbench: Command, tmp_path: Path, old: str, new: str, expected: str) -> None:
    text = (FOLDER / "demo" / "protocol.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "protocol.toml").write_text(text.replace(old, new), encoding="utf-8")
    done = ferbench("reproduce", "mine/1/vanilla", "--jobs", "1")
    assert done.code == 2
    assert expected in done.out + done.error()


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((48, 48), value, np.uint8)).save(file, "png")
    return file.getvalue()


HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


@pytest.fixture
def copy_of_ferplus(tmp_path: Path) -> Path:
    """Six images in the published layout; the commands take it with --partial."""
    root, rows = tmp_path / "ferplus", [HEADER]
    for part, (folder, usage) in enumerate(
        [("FER2013Train", "Training"), ("FER2013Valid", "PublicTest"), ("FER2013Test", "PrivateTest")]
    ):
        (root / folder).mkdir(parents=True)
        for number in range(2):
            name = f"fer{2 * part + number:07d}.png"
            (root / folder / name).write_bytes(png(40 * part + number))
            rows.append(f"{usage},{name},{'9,1' if number else '1,9'},0,0,0,0,0,0,0,0")
    (root / "fer2013new.csv").write_text("\n".join(rows) + "\n")
    return root


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def as_csv_layout(root: Path) -> None:
    """Pixels in fer2013.csv, in another order than the rows of fer2013new.csv."""
    for folder in root.glob("FER2013*"):
        shutil.rmtree(folder)
    pixels = " ".join(["7"] * 2304)
    usages = ["PrivateTest", "PrivateTest", "Training", "Training", "PublicTest", "PublicTest"]
    rows = [f"0,{pixels},{usage}" for usage in usages]
    (root / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "corrupt PNG": (
        lambda root: truncate(root / "FER2013Train" / "fer0000001.png", 60),
        "1 x damaged image: FER2013Train/fer0000001",
    ),
    "not a PNG": (
        lambda root: (root / "FER2013Test" / "fer0000004.png").write_text("x"),
        "damaged image: FER2013Test/fer0000004",
    ),
    "zero bytes": (
        lambda root: truncate(root / "FER2013Valid" / "fer0000002.png", 0),
        "zero-byte image: FER2013Valid/fer0000002",
    ),
    "truncated CSV": (
        lambda root: truncate(root / "fer2013new.csv", 200),
        "line 4: 2 fields, expected 12; is the file cut short?",
    ),
    "unknown class column": (
        lambda root: replace(root / "fer2013new.csv", "contempt", "boredom"),
        "missing: contempt; unknown: 'boredom'",
    ),
    "votes that are none": (
        lambda root: replace(root / "fer2013new.csv", "fer0000003.png,9,1", "fer0000003.png,9,-1"),
        "line 5: '9,-1,0,0,0,0,0,0,0,0' are not the counts of 10 votes",
    ),
    "pixels in another order": (as_csv_layout, "the rows do not match; use the original fer2013.csv"),
    "no images": (lambda root: [shutil.rmtree(path) for path in root.glob("FER*")], "no FERPlus images in"),
    "no labels": (lambda root: (root / "fer2013new.csv").unlink(), "no label files in"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_of_ferplus(
    ferbench: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, copy_of_ferplus: Path, damage: str
) -> None:
    monkeypatch.setenv("FERBENCH_CACHE", str(tmp_path / "cache"))
    spoil, expected = DAMAGES[damage]
    spoil(copy_of_ferplus)
    done = ferbench("prepare", "ferplus", "--root", copy_of_ferplus, "--partial")
    assert done.code == 2
    assert expected in done.error()
    assert not list((tmp_path / "cache").glob("*"))


def test_a_copy_that_is_not_the_published_one_needs_partial(
    ferbench: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, copy_of_ferplus: Path
) -> None:
    monkeypatch.setenv("FERBENCH_CACHE", str(tmp_path / "cache"))
    done = ferbench("prepare", "ferplus", "--root", copy_of_ferplus)
    assert done.code == 2 and "is not the published FERPlus" in done.error()
    assert ferbench("prepare", "ferplus", "--root", copy_of_ferplus, "--partial").code == 0


@pytest.fixture
def unfinished(ferbench: Command, tiny_arguments: list[str], tmp_path: Path) -> tuple[Callable[[], Any], Path]:
    """A command whose run needs only its record to be finished, and the run's folder."""

    def again() -> Any:
        return ferbench("train", "vanilla", *tiny_arguments)

    assert again().code == 0
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    (folder / "record.json").unlink()
    return again, folder


@pytest.mark.parametrize("size", [0, 1000, -1], ids=["empty", "truncated", "one byte short"])
def test_a_truncated_checkpoint(unfinished: tuple[Callable[[], Any], Path], size: int) -> None:
    again, folder = unfinished
    truncate(folder / "checkpoint.pt", size)
    damaged = (folder / "checkpoint.pt").read_bytes()
    done = again()
    assert done.code == 0
    assert f"{folder.name}/checkpoint.pt: the checkpoint is damaged or truncated" in done.out
    assert "it is set aside as checkpoint.damaged.pt, and the run begins anew" in done.out
    assert (folder / "checkpoint.damaged.pt").read_bytes() == damaged


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Files of this name go to /dev/full, which refuses every write with "no space left on device"."""
    write = files.write

    def full(path: Path, fill: Callable[[Any], object], **options: Any) -> None:
        def elsewhere(file: object) -> None:
            with Path("/dev/full").open("r+b", buffering=0) as disk:
                fill(disk)

        write(path, elsewhere if path.name == name else fill, **options)

    monkeypatch.setattr(files, "write", full)


@pytest.mark.parametrize("file", ["spec.json", "metrics.jsonl", "predictions.npz", "record.json"])
def test_a_full_disk_keeps_what_is_there(
    unfinished: tuple[Callable[[], Any], Path], monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    again, folder = unfinished
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    with monkeypatch.context() as patch:
        fill_the_disk(patch, file)
        done = again()
    assert done.code == 2
    assert f"/{file}: No space left on device; free space or choose another --results folder" in done.error()
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before
    assert again().code == 0


def test_a_full_disk_at_a_checkpoint(
    unfinished: tuple[Callable[[], Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    again, folder = unfinished
    (folder / "checkpoint.pt").unlink()
    with monkeypatch.context() as patch:
        fill_the_disk(patch, "checkpoint.pt")
        done = again()
    assert done.code == 2
    assert "/checkpoint.pt: No space left on device; free space or choose another --results folder" in done.error()
    assert not (folder / "checkpoint.pt").exists()
    assert again().code == 0


def test_a_run_of_another_command_is_left_alone(unfinished: tuple[Callable[[], Any], Path]) -> None:
    import fcntl

    again, folder = unfinished
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = again()
    assert done.code == 2 and "another process is working on this run" in done.error()
    assert again().code == 0


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")],
    ids=["host", "device"],
)
def test_out_of_memory(
    ferbench: Command, tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def refuse(*args: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr("ferbench.bench.training.train.train", refuse)
    done = ferbench("train", "vanilla", *tiny_arguments)
    assert done.code == 2 and "out of memory; try a smaller batch_size or input_size" in done.error()


def test_ctrl_c_before_a_run(ferbench: Command, tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **named: Any) -> None:
        os.kill(os.getpid(), 2)

    monkeypatch.setattr("ferbench.bench.data.splits.draw.make_split", interrupt)
    done = ferbench("train", "vanilla", *tiny_arguments)
    assert done.code == 130 and "stopped; what was saved before is kept" in done.error()


def test_a_mistake_of_ours_is_not_hidden(
    ferbench: Command, tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: Any, **named: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("ferbench.bench.training.train.train", wrong)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        ferbench("train", "vanilla", *tiny_arguments)
