"""`ferbench check NAME`: whether a method, data set or protocol keeps to what the rest of ferbench counts on.

The same promises are tested of everything that comes with the package (tests/methods/test_contract.py and others).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.sets.readers import READERS
from ferbench.bench.tables.planning.implemented import COMPARABLE, implemented
from ferbench.bench.tables.planning.pace import shorter_presets, unexplained
from ferbench.bench.tables.planning.step_cost import CLASSES, Example, Trivial, example
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.tables.settings import settings
from ferbench.errors import UserError
from ferbench.methods import METHODS, PLUG_INS, Variant, View, option_values
from ferbench.protocols import ProtocolError, cells, load_protocol, protocol_names

Found = tuple[str, str]  # what was checked; what is wrong with it, "" where nothing is
Check = Callable[..., str]


def check(name: str, workspace: Workspace) -> Iterator[Found]:
    """Check the method, data set or protocol (a name or a folder) called `name`. Raises UserError for any other.

    A paper's method and its protocol have one name: both are checked.
    """
    protocol = name in protocol_names() or (Path(name) / "protocol.toml").is_file()
    if name in METHODS:
        yield from check_method(name)
    elif name in READERS:
        yield from check_faces(workspace.faces(name, {}))
    if protocol:
        yield from check_protocol(name)
    elif name not in METHODS and name not in READERS:
        raise ProtocolError(
            f"no method, data set or protocol '{name}'; one in a file needs --plugin FILE.py before `check`"
        )


def check_method(name: str) -> Iterator[Found]:
    """Each promise of the contract in methods/base.py."""
    for promise, one in _METHOD.items():
        try:
            yield promise, one(name)
        except UserError as error:
            yield promise, str(error)
        except Exception as error:  # whatever a method of the user's own raises
            yield promise, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _options(name: str) -> str:
    options = METHODS[name].Options
    if not is_dataclass(options) or not options.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return "Options is no frozen dataclass"
    learner = {"learner": "fixmatch"} if name in PLUG_INS else {}
    for variant in get_args(Variant):
        option_values(name, variant, learner)  # raises for an option that neither it nor its learner has
    return ""


def _views(name: str) -> str:
    views = _made(name).method.views
    unknown = [view for view in (*views.labelled, *views.unlabelled) if view not in get_args(View)]
    return f"unknown views {', '.join(unknown)}; there are {', '.join(get_args(View))}" if unknown else ""


def _made(name: str) -> Example:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return example(Trivial(), name, "paper", 8, 16, images=24, known=8)


def _step(name: str) -> str:
    one = _made(name)
    losses = one.step().losses
    wrong = [term for term, loss in losses.items() if loss.shape != () or not math.isfinite(float(loss.detach()))]
    if wrong or not losses:
        return f"loss terms are no finite 0-d tensors: {', '.join(wrong) or 'there are none'}"
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    moved = any(part.grad is not None and bool(part.grad.abs().sum() > 0) for part in one.method.parameters())
    return "" if moved else "no loss reaches a parameter"


class _HostCopies(TorchFunctionMode):
    """Refuses the copies to the host that fake tensors on the CPU cannot tell from nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("cpu", "numpy", "__array__"):
            raise RuntimeError(f"Tensor.{func.__name__} copies to the host")
        return func(*args, **(kwargs or {}))


@contextmanager
def _no_values() -> Iterator[None]:
    with FakeTensorMode(), _HostCopies():
        yield


def _no_waiting(name: str) -> str:
    """Tensors without values: what needs a value, or has a shape that depends on one, raises."""
    with _no_values():
        _made(name).step()
    return ""


def _state(name: str) -> str:
    """A copy that loads the state answers as the original does, and its next step has the same losses."""
    first = _made(name)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        first.step()
    second = Example(copy.deepcopy(first.method), first.labelled, first.unlabelled)
    fresh = _made(name)
    fresh.method.load_state_dict(first.method.state_dict())
    found = []
    for one in (second, Example(fresh.method, first.labelled, first.unlabelled)):
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(2)
            found.append({term: float(loss.detach()) for term, loss in one.step().losses.items()})
    if found[0] != found[1]:
        return f"a step after loading its state differs ({found[0]} and {found[1]}): something lies outside of buffers"
    return ""


def _buffers(name: str) -> str:
    small = [key for key, value in _made(name).method.state_dict().items() if value.dtype == torch.int16]
    return f"int16 buffers cannot be sent between processes: {', '.join(small)}" if small else ""


def _predict(name: str) -> str:
    one = _made(name)
    one.method.eval()
    images = next(iter(one.labelled.views.values()))
    with torch.no_grad():
        rules = one.method.predict_all(images)
    wrong = [rule for rule, scores in rules.items() if scores.shape != (len(images), CLASSES) or not _finite(scores)]
    return f"scores are no finite [B, K]: {', '.join(wrong)}" if wrong or not rules else ""


def _finite(scores: torch.Tensor) -> bool:
    return bool(torch.isfinite(scores).all())


_METHOD: dict[str, Check] = {
    "options are a frozen dataclass with defaults": _options,
    "views are known": _views,
    "a step gives finite losses that reach parameters": _step,
    "a step does not wait for the device": _no_waiting,
    "its state is its whole state": _state,
    "its buffers can be sent between processes": _buffers,
    "it scores images": _predict,
}


def check_faces(faces: FaceSet) -> Iterator[Found]:
    """That the arrays of a data set belong together."""
    images = len(faces.ids)
    labelled = faces.labels[faces.labels >= 0]
    both = np.intersect1d(faces.train, faces.test)
    for promise, wrong in {
        "images are bytes [N, H, W, 1 or 3]": faces.images.dtype != np.uint8 or faces.images.shape[-1] not in (1, 3),
        "ids, labels and parts are one for each image": {len(faces.images), len(faces.labels), len(faces.parts)}
        != {images},
        "ids are unique": len(np.unique(faces.ids)) != images,
        "labels are places in the list of classes": labelled.size > 0 and int(labelled.max()) >= len(faces.classes),
        "classes are unique": len(set(faces.classes)) != len(faces.classes),
        "there are training images": not len(faces.train),
        "training and test images are apart": bool(len(both)),
    }.items():
        yield promise, "it is not so" if wrong else ""
    counts = faces.class_counts(faces.train)
    empty = [name for name, count in counts.items() if not count]
    yield "every class has training images", f"none of {', '.join(empty)}" if empty else ""


def check_protocol(name: str) -> Iterator[Found]:
    """That each cell has settings under each preset, and what has a pace of its own the paper's share of a run."""
    protocol = load_protocol(name)
    for table in protocol.tables:
        wrong = []
        for cell in cells(protocol, table.id):
            if cell.published_only or not implemented(cell):
                continue
            try:
                for preset in protocol.presets:
                    settings(cell, preset, cell.seeds[0])
            except UserError as error:
                wrong.append(f"{cell.id}: {error}")
        yield f"the cells of {protocol.name}/{table.id} can be resolved", "; ".join(wrong[:3])
    for preset in shorter_presets(protocol) if COMPARABLE in protocol.presets else ():
        promise = f"what learns at a pace of its own has the paper's share of a run under {preset}, or a reason"
        yield promise, "; ".join(unexplained(protocol, preset))
