"""What a finished run says of a user's own images, and its weights in a file that other programs can read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.decode import MOST_BYTES, BadImage, strict_limits, to_rgb
from ferbench.bench.data.reading.tree import walk_images
from ferbench.bench.data.views.augment import apply_plain
from ferbench.bench.data.views.normalisation import MEAN_STD
from ferbench.bench.files import FileError, read_bytes, reason
from ferbench.bench.tables.counting.finished import FinishedRun
from ferbench.bench.terminal import FORMULA, no_formula
from ferbench.bench.training.networks.backbones import Classifier
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.finite import check_scores
from ferbench.bench.training.state import view_recipe

BATCH = 64


def image_paths(path: Path) -> list[Path]:
    """The image itself, or all images below a folder, sorted. Raises DataError where there are none."""
    if not path.exists():
        raise DataError(f"{path}: no such image or folder")
    found = [path / name for name in walk_images(path)] if path.is_dir() else [path]
    if not found:
        raise DataError(f"{path}: no images in this folder")
    return found


@torch.no_grad()
def scores(run: FinishedRun, paths: Sequence[Path]) -> Iterator[tuple[Path, list[float]]]:
    """Scores [K] by the headline rule, image by image: the whole image, squeezed to the square the run was trained on.

    Raises DataError for an image that cannot be read, TrainingError for scores that are not finite.
    """
    device, recipe = next(run.method.parameters()).device, view_recipe(run.recipe)
    with strict_limits():
        for start in range(0, len(paths), BATCH):
            some = paths[start : start + BATCH]
            views = torch.cat([apply_plain(_pixels(path), recipe) for path in some]).to(device)
            found = run.method.predict(views).float()
            check_scores({"main": found.cpu().numpy()}, run.method)
            yield from zip(some, found.tolist(), strict=True)


def write_scores(run: FinishedRun, paths: Sequence[Path], out: Path) -> int:
    """A CSV with path, predicted class and the score of every class; returns how many images it holds.

    No cell of it is a formula to a spreadsheet, whatever images and classes are called.
    """
    names, text = [no_formula(name) for name in run.classes], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "predicted", *names])
    for path, row in scores(run, paths):
        place = f"./{path}" if str(path).startswith(FORMULA) else path  # the same file
        writer.writerow([place, names[max(range(len(row)), key=row.__getitem__)], *(f"{value:.6f}" for value in row)])
    records.write(out, lambda file: file.write(text.getvalue().encode()))
    return len(paths)


def export(run: FinishedRun, out: Path) -> None:
    """The tested weights as tensors and plain types, for `torch.load(out, weights_only=True)`.

    state_dict: the encoder's (`--weights NAME=FILE` starts other runs from it, and timm loads it strictly where the
    backbone is timm's); method: all of the tested method's state; classes, backbone, input_size, mean, std,
    channel_order: what the input and the output mean; run: whose weights they are. The file ends in its digest.
    """
    mean, std = MEAN_STD[run.recipe.mean_std]
    document = {
        "state_dict": _plain(predicting(run).encoder),
        "method": _plain(run.method),
        "classes": list(run.classes),
        "backbone": run.recipe.backbone,
        "input_size": run.recipe.input_size,
        "mean": list(mean),
        "std": list(std),
        "channel_order": run.recipe.channel_order,
        "run": run.folder.name,
    }
    records.write(out, lambda file: torch.save(document, file), sealed=True)


@torch.no_grad()
def predicting(run: FinishedRun) -> Classifier:
    """The classifier behind the headline prediction: the teacher's, where a teacher is tested."""
    called: list[Classifier] = []
    models = [module for module in run.method.modules() if isinstance(module, Classifier)]
    hooks = [model.register_forward_hook(lambda module, *_: called.append(module)) for model in models]
    size = run.recipe.input_size
    run.method.predict(torch.zeros(2, 3, size, size, device=next(run.method.parameters()).device))
    for hook in hooks:
        hook.remove()
    return (called or models)[0]  # a decoder reads the tokens of the one model there is


def _pixels(path: Path) -> Tensor:
    """uint8 [1, H, W, 3]."""
    try:
        return torch.from_numpy(np.array(to_rgb(read_bytes(path, MOST_BYTES)))).unsqueeze(0)
    except (OSError, FileError, BadImage) as error:
        raise DataError(f"{path}: cannot be read as an image ({reason(error)}); take it out or repair it") from error


def _plain(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
