"""What several tests share: tiny face sets, and runs small enough to be repeated a dozen times."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():  # Triton looks at this when it is first imported, which torchvision does below
    os.environ.setdefault("TRITON_INTERPRET", "1")

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferbench.bench.data.faceset import PARTS, FaceSet
from ferbench.bench.data.preparing.checks.fingerprint import faceset_fingerprint
from ferbench.bench.data.splits.draw import make_split
from ferbench.bench.tables.runs import Workspace, make_run
from ferbench.bench.tables.settings import candidate_settings, method_settings
from ferbench.bench.training.state import Run
from ferbench.protocols import REST, Recipe
from ferbench.protocols.loader import FOLDER

MakeFaces = Callable[..., FaceSet]
MakeRun = Callable[..., Run]

TRAIN = {"joy": 24, "calm": 18, "anger": 12}
TEST = {"joy": 9, "calm": 6, "anger": 5}
TINY = Recipe(
    backbone="resnet_small", batch_size=4, epochs=3, steps_per_epoch=5, lr=1e-3, mu=2, input_size=16, crop_padding=2,
    randaugment_ops=2, schedule="cosine", ema=0.9, ema_buffers="ema", shrink=0.02, evaluate="ema", dropout=0.5,
)  # fmt: skip


def _make_faces(
    train: Mapping[str, int] = TRAIN,
    test: Mapping[str, int] = TEST,
    *,
    size: int = 16,
    order: Sequence[int] | None = None,
    name: str = "tiny",
) -> FaceSet:
    """A face set of grey squares whose brightness tells the class; `order` lists the same images in another order."""
    names = list(train)
    labels = np.array([k for counts in (train, test) for k, cls in enumerate(names) for _ in range(counts.get(cls, 0))])
    total, held = sum(train.values()), sum(test.values())
    parts = np.repeat([PARTS.index("train"), PARTS.index("test")], [total, held]).astype(np.int8)
    ids = np.array([f"{PARTS[part]}/{number:04d}.png" for number, part in enumerate(parts)])
    rng = np.random.default_rng(7)
    light = 40 + 150 * labels[:, None, None, None] / max(len(names) - 1, 1)
    images = (light + rng.integers(0, 60, (total + held, size, size, 1))).astype(np.uint8)
    if order is not None:
        images, labels, parts, ids = (values[list(order)] for values in (images, labels, parts, ids))
    labels = labels.astype(np.int64)
    chosen = [np.flatnonzero(parts == PARTS.index(part)).astype(np.int64) for part in ("train", "test")]
    options = {"size": size}
    digest = faceset_fingerprint(options, ids, labels, parts, *chosen)
    return FaceSet(name, tuple(names), images, labels, parts, ids, chosen[0], chosen[1], options, digest)


@pytest.fixture(scope="session")
def make_faces() -> MakeFaces:
    return _make_faces


@pytest.fixture(scope="session")
def make_tiny_run() -> MakeRun:
    """A run of `method` on a tiny face set; keywords change its recipe, `options` its method."""

    def make(
        method: str = "fixmatch",
        *,
        options: Mapping[str, Any] | None = None,
        faces: FaceSet | None = None,
        split: tuple[str, Mapping[str, Any]] = ("balanced", {"per_class": 8}),
        seed: int = 3,
        **recipe: Any,
    ) -> Run:
        faces = faces or _make_faces()
        drawn = make_split(faces, *split, seed)
        settings = Recipe(**{**vars(TINY), **recipe})
        data = {"reader": faces.name, "options": dict(faces.options)}
        sets = candidate_settings(method, "uniform_flip", {"q": 0.4})
        spec = method_settings(method, options or {}, "paper", settings) | sets | {
            "dataset": data, "test": data, "unlabelled": REST,
            "split": {"kind": drawn.recipe, "parameters": dict(drawn.parameters)}, "preset": "cpu", "seed": seed,
        }  # fmt: skip
        return make_run(spec, settings, faces, drawn, faces, None, Workspace(Path("nowhere"), Path("nowhere")))

    return make


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors gain nothing from threads, and a run repeats bit for bit only with as many of them."""
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit code, and both streams as lines."""

    code: int
    out: str
    err: str

    def error(self) -> str:
        """The one line on stderr of a command that failed as it should."""
        assert "Traceback" not in self.err + self.out
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1 and lines[0].startswith("ferbench: "), self.err
        return lines[0]


@pytest.fixture
def ferbench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, drawn_faces: Path
) -> Callable[..., Finished]:
    """Runs the command line in this process and in `tmp_path`, without a data set of the user's own."""
    from ferbench.bench import cli, terminal

    monkeypatch.setenv("FERBENCH_CACHE", str(drawn_faces))
    monkeypatch.delenv("FERBENCH_FERPLUS_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # hints name the command, not `python -m pytest`

    def call(*arguments: object) -> Finished:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ferbench", *map(str, arguments)])
        monkeypatch.setattr(terminal, "console", terminal.Terminal(width=200))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Finished(ended.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which synthetic faces, once drawn, stay for the tests that follow."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_arguments() -> list[str]:
    """Options of `ferbench train` for a run of a second: two epochs of two steps on a few synthetic faces."""
    recipe = ("epochs=2", "steps_per_epoch=2", "batch_size=4", "input_size=16", "crop_padding=2")
    pairs = [("--data-option", "scale=0.01"), ("--data-option", "size=16"), ("--split", "balanced:per_class=2")]
    return [word for pair in [*pairs, *(("--recipe", change) for change in recipe)] for word in pair]


@pytest.fixture
def tiny_protocol(tmp_path: Path) -> Path:
    """A folder `tiny` in `tmp_path` with the demo's protocol, each run of it a second long."""
    text = (FOLDER / "demo" / "protocol.toml").read_text(encoding="utf-8")
    changes = {
        "paper": '"tiny"', "epochs": "2", "steps_per_epoch": "2", "batch_size": "4", "input_size": "16",
        "options = { scale": "0.01, size = 16 }", "n1": "20", "gamma": "20.0",
    }  # fmt: skip
    for key, value in changes.items():
        text, times = re.subn(rf"^{re.escape(key)} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert times, key
    text = text[::-1].replace("0.02 = ammag", "0.01 = ammag", 1)[::-1]  # the last split has another tail
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "protocol.toml").write_text(text, encoding="utf-8")
    return tmp_path / "tiny"
