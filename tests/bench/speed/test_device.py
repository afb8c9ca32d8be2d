"""The device script in its CPU form: rows, the gate before them, and what it says without a GPU."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from ferbench import kernels
from ferbench.bench.speed import device
from ferbench.bench.speed.machine import Machine
from ferbench.bench.speed.ops import ambiguous, info_nce
from ferbench.bench.speed.ops.case import Case, Work, copied
from ferbench.bench.speed.ops.ema import Ema
from ferbench.bench.speed.ops.gate import Gate
from ferbench.bench.speed.ops.pseudo_label import PseudoLabel

CPU = torch.device("cpu")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def run(path: Path, *extra: str) -> int:
    return device.main(["--device", "cpu", "--quick", "--seconds", "0.02", "--csv", str(path), *extra])


def test_rows_of_a_cpu_run(tmp_path: Path, no_compiler: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "speed.csv", "--op", "pseudo_label") == 0
    with (tmp_path / "speed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    forms = ("eager", "compiled", "released")
    assert [(row["variant"], row["case"], row["unit"]) for row in rows] == [
        ("copy", "read and written", "GB/s"), ("matrix", "product", "TFLOP/s"), ("launch", "in a graph", "us"),
        ("launch", "of the host", "us"), ("floor", "B64-K7", "ms"), *((form, "B64-K7", "ms") for form in forms),
        *((form, "B64-K7 host", "us") for form in forms),
    ]  # fmt: skip
    assert all(float(row["median"]) > 0 and "--device cpu" in row["command"] for row in rows)
    assert "no GPU number exists" in capsys.readouterr().out


def test_every_op_has_a_case() -> None:
    assert sorted(kind.op for kind in device.CASES) == sorted(
        set(kernels.__all__) - {"Head", "Impl", "MovingAverage", "Rows"}
    )


def test_each_op_is_timed_before_any_op_is_timed_at_a_second_size() -> None:
    order = device.in_rounds([kind() for kind in device.CASES], quick=False)
    assert [case.op for case, _ in order[: len(device.CASES)]] == [kind.op for kind in device.CASES]
    assert sorted((case.op, name) for case, name in order) == sorted(
        (kind.op, name) for kind in device.CASES for name in kind.sizes if name != "quick"
    )


def test_what_has_no_row_of_this_device_is_timed_first(tmp_path: Path, no_compiler: None) -> None:
    assert run(tmp_path / "speed.csv", "--op", "pseudo_label") == 0
    timed = device.already_timed(tmp_path / "speed.csv")
    assert ("pseudo_label", "B64-K7") in timed
    order = device.in_rounds([PseudoLabel(), Gate()], quick=False, timed=timed)
    assert [(case.op, name) for case, name in order][-1] == ("pseudo_label", "paper")
    assert len(order) == len(device.in_rounds([PseudoLabel(), Gate()], quick=False))


def test_the_floor_is_the_slowest_of_bytes_products_and_launches() -> None:
    machine = Machine(copy=1e12, matrix=1e15, node=2e-6, launch=3e-6)
    assert machine.floor(Work(4e9)) == pytest.approx(4.0)
    assert machine.floor(Work(0, flop=3e12)) == pytest.approx(3.0)
    assert machine.floor(Work(0, launches=2)) == pytest.approx(4e-3)
    for kind in device.CASES:
        assert all(machine.floor(kind().floor(size)) > 0 for size in kind.sizes.values())


def test_incoming_gradients_are_made_once() -> None:
    case = ambiguous.Ambiguous()
    made = []
    incoming = case.incoming
    case.incoming = lambda outputs: made.append(1) or incoming(outputs)  # type: ignore[method-assign, func-returns-value]
    step = case.bound(case.eager, case.inputs({"B": 3, "K": 4}, torch.device("cpu")))
    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True)) and made == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sampled_gradients_of_the_contrast_are_the_whole_ones(dtype: torch.dtype) -> None:
    a, b = (x.detach().to(dtype).requires_grad_() for x in info_nce.InfoNce().inputs({"N": 40, "D": 8}, CPU))
    loss = kernels.info_nce(a, b, temperature=info_nce.TEMPERATURE)
    gradients = torch.autograd.grad(0.5 * loss, (a, b))
    some = torch.tensor([0, 7, 39])
    ours = info_nce.sampled(a.detach(), b.detach(), some, torch.tensor(0.5))
    for x, y in zip(ours, (loss.detach(), *(g[some] for g in gradients)), strict=True):
        torch.testing.assert_close(x, y.double(), rtol=1e-4, atol=1e-6)


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
    with (tmp_path / "speed.csv").open(newline="") as file:
        assert {row["name"] for row in csv.DictReader(file)} == {"machine"}
    assert "misses its reference" in capsys.readouterr().out


def test_a_form_that_does_not_take_a_size_is_left_out(tmp_path: Path, no_compiler: None) -> None:
    assert run(tmp_path / "speed.csv", "--op", "info_nce") == 0
    with (tmp_path / "speed.csv").open(newline="") as file:
        variants = {row["variant"] for row in csv.DictReader(file) if row["name"] == "info_nce"}
    assert {"eager", "released", "floor"} <= variants and "flash-attention-lse" not in variants


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
