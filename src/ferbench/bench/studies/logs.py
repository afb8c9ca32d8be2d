"""What metrics.jsonl says of finished runs, for TensorBoard or MLflow: converted afterwards, by no hook in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ferbench.bench.studies.plot_runs import find_runs
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.records import RunError


def convert(target: str, results: Path, kind: str, out: Path) -> Iterator[str]:
    """A log per run of `target` (a run, or cells) below `out`; yields a line each. Raises RunError."""
    if kind not in KINDS:
        raise RunError(f"cannot log to '{kind}'; valid: {', '.join(KINDS)}")
    for run in find_runs(target, results):
        lines = records.read_lines(run.folder / "metrics.jsonl")
        spec = records.read_json(run.folder / "spec.json")
        yield f"{run.folder.name}: {KINDS[kind](run.folder.name, spec, lines, out)}"


def numbers(line: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a line, by its place: test/ema/mixture/overall."""
    for key, value in line.items():
        name = f"{head}{key}"
        if isinstance(value, dict):
            yield from numbers(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in ("epoch", "step"):
            yield name, float(value)


def _settings(spec: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, str]]:
    for key, value in spec.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{head}{key}/")
        else:
            yield f"{head}{key}", str(value)


def _tensorboard(name: str, spec: Mapping[str, Any], lines: list[dict[str, Any]], out: Path) -> str:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RunError("TensorBoard is not installed: pip install 'ferbench[tensorboard]'") from error
    folder = out / name
    if folder.exists():
        raise RunError(f"{folder} is there already; give another --out, or move it away")
    with SummaryWriter(str(folder)) as writer:
        table = "\n".join(
            ["| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in _settings(spec))]
        )
        writer.add_text("settings", table, 0)
        for line in lines:
            for key, value in numbers(line):
                writer.add_scalar(key, value, int(line["step"]))
    return f"{len(lines)} epochs in {folder}"


def _mlflow(name: str, spec: Mapping[str, Any], lines: list[dict[str, Any]], out: Path) -> str:
    try:
        import mlflow
    except ImportError as error:
        raise RunError("MLflow is not installed: pip install 'ferbench[mlflow]'") from error
    out.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{(out / 'mlflow.db').resolve()}")
    mlflow.set_experiment("ferbench")
    with mlflow.start_run(run_name=name):
        mlflow.log_params({_plain(key): value[:500] for key, value in _settings(spec)})
        for line in lines:
            mlflow.log_metrics({_plain(key): value for key, value in numbers(line)}, step=int(line["step"]))
    return f"{len(lines)} epochs in {out / 'mlflow.db'}"


def _plain(name: str) -> str:
    """MLflow takes letters, digits and a few signs."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)


KINDS: Mapping[str, Callable[[str, Mapping[str, Any], list[dict[str, Any]], Path], str]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
}
