"""A finished run's weights for other programs: safetensors with a model card beside them, and ONNX that was tried out.

The ending of the file says which: .pt (`predict.export`), .safetensors, .onnx.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ferbench.bench.data.views.normalisation import MEAN_STD
from ferbench.bench.studies.predict import export as export_pt
from ferbench.bench.studies.predict import predicting
from ferbench.bench.tables.counting.finished import FinishedRun
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.evidence import from_record
from ferbench.bench.training.recording.metrics import recalls
from ferbench.bench.training.recording.records import RunError

LARGEST_DIFFERENCE = 1e-4  # of a probability, between the model and its ONNX file


def write_weights(run: FinishedRun, out: Path) -> str:
    """Write the run's weights in the form that the ending of `out` names; returns a line. Raises RunError."""
    if out.suffix not in WRITERS:
        raise RunError(f"{out}: unknown ending '{out.suffix}'; valid: {', '.join(WRITERS)}")
    return WRITERS[out.suffix](run, out)


def _pt(run: FinishedRun, out: Path) -> str:
    export_pt(run, out)
    return f"wrote {out}"


def _safetensors(run: FinishedRun, out: Path) -> str:
    """encoder.* and method.* tensors; what input and output mean is in the file's metadata, and on the card."""
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise RunError("safetensors is not installed: pip install safetensors") from error
    parts: dict[str, nn.Module] = {"encoder": predicting(run).encoder, "method": run.method}
    # a copy of each: the format allows no two names for one piece of memory
    tensors = {
        f"{part}.{name}": value.detach().cpu().clone().contiguous()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    content = save(tensors, metadata={key: json.dumps(value) for key, value in meaning(run).items()})
    records.write(out, lambda file: file.write(content))
    card = out.with_suffix(".md")
    text = model_card(run, records.read_json(run.folder / "record.json"))
    records.write(card, lambda file: file.write(text.encode()))
    return f"wrote {out} and its card {card}"


def meaning(run: FinishedRun) -> dict[str, Any]:
    """What the input and the output mean."""
    mean, std = MEAN_STD[run.recipe.mean_std]
    return {
        "run": run.folder.name,
        "classes": list(run.classes),
        "backbone": run.recipe.backbone,
        "input_size": run.recipe.input_size,
        "mean": list(mean),
        "std": list(std),
        "channel_order": run.recipe.channel_order,
    }


def model_card(run: FinishedRun, record: Mapping[str, Any]) -> str:
    """The run's record in words: what it is for, how good it is on whom, and what is not known."""
    spec, facts, last = run.spec, meaning(run), record["metrics"]["last"]
    evidence = from_record(record)
    split = record["split"]
    lines = [
        f"# {run.folder.name}", "",
        f"Facial expressions from one face image, trained with ferbench {record.get('ferbench', '')}:",
        f"{spec['method']} ({spec['variant']}) on {spec['dataset']['reader']}, {split['labelled']:,} labelled and",
        f"{split['unlabelled']:,} unlabelled images, seed {spec['seed']}, preset {spec['preset']}.", "",
        f"- input: {facts['input_size']} x {facts['input_size']} pixels, {facts['channel_order']}, in [0, 1], less",
        f"  {facts['mean']}, divided by {facts['std']}",
        f"- classes, in this order: {', '.join(facts['classes'])}",
        f"- backbone: {facts['backbone']}", "",
        f"Tested on {split['test']:,} images of {spec['test']['reader']} after the last epoch:",
        f"overall accuracy {last['overall']:.2f} %, mean of the classes' recalls {last['mean']:.2f} %.",
        "This is one run; another seed gives another number.", "",
    ]  # fmt: skip
    if evidence:
        lines += ["| class | test images | recall, % |", "|---|---|---|"]
        found = zip(evidence.classes, evidence.headline.sizes, recalls(evidence.headline.confusion), strict=True)
        lines += [f"| {name} | {size} | {recall:.1f} |" for name, size, recall in found if size]
        lines.append("")
    lines += [
        "Classes that the data have few of are recognised far worse than the overall accuracy suggests. What a face",
        "shows is not what a person feels: do not decide about people by it. The data set's terms cover the weights.",
        "",
        f"Code {record.get('code', 'not kept')}, commit {record.get('commit', 'unknown')},",
        f"{record.get('device', 'unknown device')}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


class _Scores(nn.Module):
    """Normalised images [B, 3, S, S] to scores [B, K] of the headline rule."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.method.predict(images)  # type: ignore[operator]
        return scores.float()


def _onnx(run: FinishedRun, out: Path) -> str:
    """Scores of normalised images, any number at once; held against the model before the file is kept."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch's exporter needs
    except ImportError as error:
        raise RunError("ONNX needs more packages: pip install 'ferbench[onnx]'") from error
    size = run.recipe.input_size
    model = _Scores(run.method.cpu().to(memory_format=torch.contiguous_format)).eval()
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("images", min=1, max=65536)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                model, (images,), dynamo=True, dynamic_shapes={"images": {0: batch}}, input_names=["images"],
                output_names=["scores"], verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter reports what it cannot express in many ways
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise RunError(f"{run.spec['method']} cannot be written as ONNX: {reason}; .pt and .safetensors can") from error
    assert program is not None
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst = 0.0
    with torch.no_grad():
        for some in (images, images[:1]):
            (found,) = session.run(None, {"images": some.numpy()})
            worst = max(worst, float(np.abs(found - model(some).numpy()).max()))
    if not worst <= LARGEST_DIFFERENCE:
        raise RunError(f"the ONNX file differs from the model by {worst:.2g}; nothing was written")
    records.write(out, lambda file: file.write(content))
    return f"wrote {out}; its scores differ from the model's by {worst:.1g} at most"


WRITERS: Mapping[str, Callable[[FinishedRun, Path], str]] = {
    ".pt": _pt, ".pth": _pt, ".safetensors": _safetensors, ".onnx": _onnx,
}  # fmt: skip
