"""A run's files: whole or not there, found by a name that says which run it is."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ferbench.bench.training.recording import records

SPEC: dict[str, Any] = {
    "method": "fixmatch",
    "variant": "paper",
    "preset": "cpu",
    "seed": 3,
    "dataset": {"reader": "tiny", "fingerprint": "ab"},
    "test": {"reader": "tiny", "fingerprint": "ab"},
    "split": {"kind": "balanced", "parameters": {"per_class": 8, "validation": 0.0}, "fingerprint": "cd"},
    "options": {"threshold": 0.95},
    "recipe": {"lr": 0.001},
}


def test_run_id_is_readable_safe_in_a_path_and_ends_in_the_hash() -> None:
    name = records.run_id(SPEC)
    assert re.fullmatch(r"[A-Za-z0-9._-]+-s3-[0-9a-f]{8}", name)
    assert name.endswith(records.spec_hash(SPEC)[:8])
    for word in ("tiny", "balanced", "fixmatch", "paper", "cpu"):
        assert word in name
    assert "/" not in records.run_id({**SPEC, "method": "../../etc"})


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"seed": 4}, False),
        ({"options": {"threshold": 0.9}}, False),
        ({"recipe": {"lr": 0.002}}, False),
        ({"dataset": {"reader": "tiny", "fingerprint": "ax"}}, False),
        ({"split": {**SPEC["split"], "fingerprint": "cx"}}, False),
        ({"options": dict(reversed(SPEC["options"].items()))}, True),
    ],
    ids=["seed", "option", "recipe", "data", "split", "order of keys"],
)
def test_the_hash_tells_runs_apart(change: dict[str, Any], same: bool) -> None:
    assert (records.spec_hash({**SPEC, **change}) == records.spec_hash(SPEC)) is same
    assert (records.run_id({**SPEC, **change}) == records.run_id(SPEC)) is same
    assert records.spec_hash(dict(reversed(SPEC.items()))) == records.spec_hash(SPEC)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    records.write_json(path, {"a": 1})
    assert records.read_json(path) == {"a": 1}

    def half(file: Any) -> None:
        file.write(b"half of")
        raise OSError(28, os.strerror(28))

    with pytest.raises(records.RunError, match="cannot write .*file.json: No space left on device; free space or"):
        records.write(path, half)
    assert records.read_json(path) == {"a": 1}
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]


def test_what_is_not_a_write_error_is_not_taken_for_one(tmp_path: Path) -> None:
    records.write_json(tmp_path / "file", {"a": 1})
    with pytest.raises(TypeError):
        records.write(tmp_path / "file", lambda file: file.write("text"))  # type: ignore[arg-type]
    assert records.read_json(tmp_path / "file") == {"a": 1}


def test_lines_are_one_json_each(tmp_path: Path) -> None:
    lines = [{"epoch": 1, "text": "a\nb"}, {"epoch": 2, "text": "ü"}]
    records.write_lines(tmp_path / "m.jsonl", lines)
    text = (tmp_path / "m.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == lines


def test_predictions_need_no_pickle(tmp_path: Path) -> None:
    scores = {"main": np.eye(3, dtype=np.float32), "linear": np.ones((3, 3), np.float32)}
    records.write_predictions(tmp_path / "p.npz", scores, labels=np.arange(3))
    with np.load(tmp_path / "p.npz", allow_pickle=False) as stored:
        assert set(stored) == {"scores_main", "scores_linear", "labels"}
        assert np.array_equal(stored["scores_main"], scores["main"])


def test_a_checkpoint_holds_tensors_and_plain_types_alone(tmp_path: Path) -> None:
    state = {"spec": "x", "method": {"w": torch.arange(3.0)}, "history": [{"loss": 1.5}], "step": 3}
    records.save_checkpoint(tmp_path / "c.pt", state)
    assert torch.load(tmp_path / "c.pt", weights_only=True)["step"] == 3
    loaded = records.load_checkpoint(tmp_path / "c.pt", "x")
    assert torch.equal(loaded["method"]["w"], state["method"]["w"])  # type: ignore[index]
    assert loaded["history"] == state["history"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or truncated"),
        (b"PK\x03\x04 no more", "damaged or truncated"),
        (pickle.dumps({"spec": Path("x")}, protocol=2), "damaged or truncated"),
        (None, "belongs to another run or version"),
    ],
    ids=["empty", "half a zip", "pickled object", "another spec"],
)
def test_a_wrong_checkpoint_is_refused_and_kept(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.pt"
    records.save_checkpoint(path, {"spec": "another"})
    if content is not None:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(records.RunError) as caught:
        records.load_checkpoint(path, "x")
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", '{"a": 1', "\x00"], ids=["empty", "half", "binary"])
def test_a_damaged_json_file_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(
        records.RunError, match="record.json: cannot be read: .*; the command that made the run writes it again"
    ):
        records.read_json(tmp_path / "record.json")


def test_environment_says_what_a_figure_depends_on() -> None:
    found = records.environment()
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert found["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found
    assert records.peak_memory_mib()["host"] > 50
