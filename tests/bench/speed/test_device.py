"""The device script in its CPU form: rows, the gate before them, and what it says without a GPU."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from ferbench import kernels
from ferbench.bench.speed import device
from ferbench.bench.speed.ops import ambiguous, info_nce
from ferbench.bench.speed.ops.case import Case, copied
from ferbench.bench.speed.ops.ema import Ema
from ferbench.bench.speed.ops.gate import Gate
from ferbench.bench.speed.ops.pseudo_label import PseudoLabel


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def run(path: Path, *extra: str) -> int:
    return device.main(["--device", "cpu", "--quick", "--seconds", "0.02", "--csv", str(path), *extra])


def test_rows_of_a_cpu_run(tmp_path: Path, no_compiler: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "speed.csv", "--op", "pseudo_label") == 0
    with (tmp_path / "speed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["case"], row["unit"]) for row in rows] == [
        ("eager", "B64-K7", "ms"), ("compiled", "B64-K7", "ms"), ("released", "B64-K7", "ms"),
    ]  # fmt: skip
    assert all(float(row["median"]) > 0 and "--device cpu" in row["command"] for row in rows)
    assert "no GPU number exists" in capsys.readouterr().out


def test_every_op_has_a_case() -> None:
    assert sorted(kind.op for kind in device.CASES) == sorted(set(kernels.__all__) - {"Impl"})


def test_each_op_is_timed_before_any_op_is_timed_at_a_second_size() -> None:
    order = device.in_rounds([kind() for kind in device.CASES], quick=False)
    assert [case.op for case, _ in order[: len(device.CASES)]] == [kind.op for kind in device.CASES]
    assert sorted((case.op, name) for case, name in order) == sorted(
        (kind.op, name) for kind in device.CASES for name in kind.sizes if name != "quick"
    )


@pytest.mark.parametrize("kind", device.CASES, ids=lambda kind: kind.op)
def test_every_op_passes_its_check_on_the_cpu(kind: type[Case]) -> None:
    case = kind()
    inputs = case.inputs(case.sizes["quick"], torch.device("cpu"))
    assert device.error_over_torch(case, inputs) <= case.inexact
    for output in case.step(case.ours, inputs):
        assert output.unique().numel() > 1 or output.dim() == 0, "a constant output checks nothing"


def test_the_gates_gradient_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "ours", lambda self, logits, k: [kernels.topk_gate(logits, k, activation="none")])
    inputs = Gate().inputs(Gate.sizes["quick"], torch.device("cpu"))
    assert device.error_over_torch(Gate(), inputs) > 1e-2


def test_released_ambiguous_loss_is_the_exclusive_one_of_at_most_three() -> None:
    scores, partition = ambiguous.Ambiguous().inputs({"B": 500, "K": 7}, torch.device("cpu"))
    expected = kernels.ambiguous_loss(scores, partition, threshold=0.9, boundary="exclusive", max_positives=3)
    torch.testing.assert_close(ambiguous.released(scores, partition)[0], expected)


def test_undecided_partitions_are_replaced_and_no_others() -> None:
    partition = torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.4001, 0.0999], [0.7, 0.2, 0.1]]).log()
    replaced = ambiguous.decided(partition)
    assert replaced[0].tolist() == replaced[2].tolist() == [0.0, 1.0, 2.0]
    assert torch.equal(replaced[1], partition[1])


@pytest.mark.parametrize("samples", [2, 17])
def test_released_contrast_is_the_symmetric_one(samples: int) -> None:
    a, b = info_nce.InfoNce().inputs({"N": samples, "D": 8}, torch.device("cpu"))
    torch.testing.assert_close(info_nce.released(a, b)[0], kernels.info_nce(a, b, temperature=0.07))


@pytest.mark.parametrize("wrong", ["label", "confidence", "nan"])
def test_an_op_that_misses_its_reference_is_not_timed(
    wrong: str, tmp_path: Path, no_compiler: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = PseudoLabel.ours

    def off(*inputs: torch.Tensor) -> list[torch.Tensor]:
        label, keep, confidence = right(*inputs)
        if wrong == "label":
            return [label + 1, keep, confidence]
        return [label, keep, confidence + 1e-3 if wrong == "confidence" else confidence * float("nan")]

    monkeypatch.setattr(PseudoLabel, "ours", off)
    assert run(tmp_path / "speed.csv", "--op", "pseudo_label") == 1
    assert not (tmp_path / "speed.csv").exists()
    assert "misses its reference" in capsys.readouterr().out


def test_out_of_memory_is_a_row(tmp_path: Path, no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: torch.Tensor) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(PseudoLabel, "others", lambda self: {"released": too_large})
    assert run(tmp_path / "speed.csv", "--op", "pseudo_label") == 0
    with (tmp_path / "speed.csv").open(newline="") as file:
        medians = {row["variant"]: row["median"] for row in csv.DictReader(file)}
    assert medians["released"] == "out of memory"
    assert float(medians["eager"]) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said where there is no GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        device.main([])
    assert "no GPU here, so no GPU number exists" in capsys.readouterr().err


def test_copies_share_no_memory_and_keep_what_is_differentiated() -> None:
    leaf, number = torch.ones(3, requires_grad=True), torch.arange(3)
    again = copied([leaf, [number], 0.5], torch.float64)
    assert again[0].requires_grad and again[0].dtype == torch.float64 and again[1][0].dtype == torch.int64
    assert again[0].data_ptr() != leaf.data_ptr() and again[1][0].data_ptr() != number.data_ptr() and again[2] == 0.5


def test_ema_sizes_are_named_after_their_models() -> None:
    assert [Ema().label(size) for size in Ema.sizes.values()] == ["resnet18", "resnet18", "vit_large_patch16_224"]
