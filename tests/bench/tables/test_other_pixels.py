"""A finished run on other pixels is named when its twin is about to be trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ferbench.bench.data.sets.own import fake as fake_own
from ferbench.bench.tables.other_pixels import on_other_pixels


def write(results: Path, name: str, spec: dict[str, Any], status: str = "finished") -> None:
    folder = results / "runs" / name
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "record.json").write_text(json.dumps({"status": status}))


def test_only_pixels_may_differ(make_tiny_run: Callable[..., Any], tmp_path: Path) -> None:
    spec = make_tiny_run().spec
    other, unnamed, seed = (deepcopy(spec) for _ in range(3))
    spec["dataset"]["pixels"], other["dataset"]["pixels"] = "a", "b"
    seed |= {"seed": 99}
    write(tmp_path, "other", other)
    write(tmp_path, "unnamed", unnamed)
    write(tmp_path, "itself", deepcopy(spec))
    write(tmp_path, "seed", seed)
    write(tmp_path, "unfinished", other | {"made_for": {"cell": "x"}}, status="interrupted")
    (tmp_path / "runs" / "seed" / "spec.json").write_text("[]")
    assert on_other_pixels(spec, tmp_path) == ["other", "unnamed"]
    assert on_other_pixels(spec, tmp_path / "nowhere") == []


def test_another_alignment_is_trained_and_said(
    ferbench: Callable[..., Any], tmp_path: Path, tiny_arguments: list[str]
) -> None:
    """The same command on a copy whose images are turned: the second run is another one, and a line says so."""
    for name in ("first", "second"):
        fake_own.folder(tmp_path / name, 3)
    for path in (tmp_path / "second").rglob("*.png"):
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image)[::-1].copy()).save(path)
    pairs = zip(tiny_arguments[::2], tiny_arguments[1::2], strict=True)
    settings = [word for pair in pairs if pair[0] == "--recipe" for word in pair]
    call = ["train", "vanilla", "--dataset", "folder", "--split", "balanced:per_class=2", *settings]
    first = ferbench(*call, "--root", f"folder={tmp_path / 'first'}")
    second = ferbench(*call, "--root", f"folder={tmp_path / 'second'}")
    assert first.code == second.code == 0, first.err + second.err
    assert "is finished with these settings on other images (same names, other pixels)" in second.out + second.err
    assert len(list(tmp_path.glob("results/runs/*/record.json"))) == 2
