"""The pre-training loop: resume, determinism, several data sets, weights out and in, the command, memory."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.views.batches import Share
from ferbench.bench.pretraining import OBJECTIVES
from ferbench.bench.pretraining import pretrain as loop
from ferbench.bench.pretraining.pool import Pool
from ferbench.bench.pretraining.pretrain import draw_noise, pretrain
from ferbench.bench.pretraining.settings import Settings
from ferbench.bench.pretraining.state import Pretraining, make_state, resolve
from ferbench.bench.training import train as training
from ferbench.bench.training.interrupt import Interrupted
from ferbench.bench.training.networks.backbones import WeightsError, load_weights, make_classifier
from ferbench.bench.training.recording import records
from ferbench.methods import MethodError

SMALL = Settings(
    backbone="vit_tiny", input_size=16, batch_size=4, epochs=3, steps_per_epoch=4, warmup_epochs=1, lr=1e-3,
    mean_std="imagenet",
)  # fmt: skip
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
MakeFaces = Callable[..., FaceSet]
CPU = torch.device("cpu")


def small(make_faces: MakeFaces, settings: Settings = SMALL, *, seed: int = 5, **options: object) -> Pretraining:
    faces = make_faces()
    described = {"reader": faces.name, "options": dict(faces.options)}
    return resolve("mae", {**DECODER, **options}, settings, [(described, faces)], seed)


def outcome(folder: Path) -> dict[str, Any]:
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "objective": {name: value.numpy() for name, value in state["objective"].items()},
        "weights": {
            name: value.numpy()
            for name, value in torch.load(folder / "weights.pt", weights_only=True)["state_dict"].items()
        },
        "optimizer": [
            {name: value.numpy() for name, value in entry.items()} for entry in state["optimizer"]["state"].values()
        ],
        "history": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        "panels": np.asarray(Image.open(folder / "panels.png")),
        "loss": records.read_json(folder / "record.json")["loss"],
    }


@pytest.fixture(autouse=True)
def saved_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVED_EVERY_S", 0.0)
    monkeypatch.setattr(training, "SAVING_SHARE", math.inf)


@pytest.fixture(scope="module")
def calm(make_faces: MakeFaces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    pretrain(small(make_faces), folder)
    return folder


def test_the_loss_falls_and_every_file_is_there(calm: Path) -> None:
    assert sorted(path.name for path in calm.iterdir()) == [
        "checkpoint.pt", "metrics.jsonl", "panels.png", "record.json", "spec.json", "weights.pt",
    ]  # fmt: skip
    losses = [line["loss"] for line in outcome(calm)["history"]]
    assert len(losses) == 3 and losses[-1] < losses[0]


def test_a_killed_run_ends_bit_for_bit_where_an_undisturbed_one_ends(
    make_faces: MakeFaces, tmp_path: Path, calm: Path
) -> None:
    def life(steps: int) -> int:
        child = os.fork()
        if child == 0:
            original, calls = loop._accumulate, [0]

            def counted(*args: Any) -> None:
                calls[0] += 1
                if calls[0] == steps:
                    os.kill(os.getpid(), signal.SIGKILL)
                original(*args)

            loop._accumulate = counted
            pretrain(small(make_faces), tmp_path / "run")
            os._exit(0)
        return os.waitpid(child, 0)[1]

    assert [life(steps) for steps in (3, 6, 6)] == [signal.SIGKILL] * 3  # nothing saved; one epoch; two epochs
    assert life(100) == 0
    np.testing.assert_equal(outcome(tmp_path / "run"), outcome(calm))


def test_a_stop_request_saves_the_step_it_came_in(
    make_faces: MakeFaces, tmp_path: Path, calm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = loop._accumulate, [0]

    def stopping(*args: Any) -> None:
        calls[0] += 1
        if calls[0] == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_accumulate", stopping)
        with pytest.raises(Interrupted, match="stopped after step 6 of 12"):
            pretrain(small(make_faces), tmp_path / "run")
    pretrain(small(make_faces), tmp_path / "run")
    np.testing.assert_equal(outcome(tmp_path / "run"), outcome(calm))


def test_another_run_s_checkpoint_is_refused(make_faces: MakeFaces, tmp_path: Path) -> None:
    short = replace(SMALL, epochs=1)
    pretrain(small(make_faces, short), tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()
    with pytest.raises(records.RunError, match="belongs to another run"):
        pretrain(small(make_faces, short, mask_ratio=0.5), tmp_path / "run")


def test_the_weights_load_strictly_and_are_the_encoder_s(calm: Path) -> None:
    model = make_classifier("vit_tiny", 3, size=16, dropout=0.0)
    line = load_weights(model, calm / "weights.pt")
    assert "left out nothing" in line
    trained = torch.load(calm / "checkpoint.pt", weights_only=True)["objective"]
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, trained[f"encoder.{key}"]), key


def test_a_whole_mae_checkpoint_loads_without_its_decoder_and_at_another_size(calm: Path, tmp_path: Path) -> None:
    """As He et al.'s code saves one: under `model`, encoder and decoder, with its command line beside it."""
    from argparse import Namespace

    encoder = torch.load(calm / "weights.pt", weights_only=True)["state_dict"]
    decoder = {"decoder_embed.weight": torch.zeros(4, 4), "decoder_pos_embed": torch.zeros(1, 5, 4),
               "decoder_blocks.0.norm1.weight": torch.zeros(4), "mask_token": torch.zeros(1, 1, 4)}  # fmt: skip
    torch.save({"model": {**encoder, **decoder}, "args": Namespace(lr=1.0), "epoch": 3}, tmp_path / "mae.pth")
    model = make_classifier("vit_tiny", 3, size=32, dropout=0.0)
    line = load_weights(model, tmp_path / "mae.pth")
    assert "left out decoder_blocks.0.norm1.weight, decoder_embed.weight, decoder_pos_embed, mask_token" in line
    assert "positions resampled from 2 x 2 to 4 x 4" in line
    positions = model.encoder.pos_embed
    assert isinstance(positions, torch.Tensor)
    assert torch.equal(positions[:, 0], encoder["pos_embed"][:, 0])  # the class token's stays
    # bicubic enlargement of the 2 x 2 grid, channel by channel
    grid = encoder["pos_embed"][:, 1:].reshape(1, 2, 2, -1).permute(0, 3, 1, 2)
    larger = torch.nn.functional.interpolate(grid, (4, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(positions[:, 1:], larger.permute(0, 2, 3, 1).reshape(1, 16, -1))


def test_an_encoder_goes_on_from_a_file(make_faces: MakeFaces, calm: Path) -> None:
    """Whatever the objective draws at its start, the file's encoder stands there, and the run is another run."""
    file, bare = calm / "weights.pt", small(make_faces)
    stored = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    options: dict[str, dict[str, object]] = {
        "simmim": {"square": 8},
        "moco": {"queue": 6},
        "mae": DECODER,
        "maskfeat": {},
    }
    assert set(options) == set(OBJECTIVES)
    for name in OBJECTIVES:
        described = [({"reader": faces.name, "options": dict(faces.options)}, faces) for faces in bare.faces]
        run, other = (resolve(name, options[name], SMALL, described, 5, start=start) for start in (file, None))
        said: list[str] = []
        objective = make_state(run, CPU, said.append).objective
        for key, value in objective.encoder.state_dict().items():
            assert torch.equal(value, stored[key]), f"{name}: {key}"
        assert run.name != other.name and said == [f"loaded {len(stored)} tensors from weights.pt; left out nothing"]
        if name == "moco":
            keys = objective.keys[0].state_dict()
            assert all(torch.equal(value, stored[key]) for key, value in keys.items())


def test_positions_of_another_width_are_still_refused(calm: Path) -> None:
    with pytest.raises(WeightsError, match="does not fit the backbone"):
        load_weights(make_classifier("vit_small", 3, size=16, dropout=0.0), calm / "weights.pt")


def test_several_data_sets_of_different_shapes(make_faces: MakeFaces, tmp_path: Path) -> None:
    first, second = make_faces(), make_faces({"a": 5, "b": 6}, {"a": 1, "b": 1}, size=20, name="other")
    second = replace(second, images=np.repeat(second.images, 3, axis=3))
    pool = Pool([first, second], CPU)
    assert len(pool.positions) == len(first.train) + len(second.train) == 54 + 11
    recipe = SMALL.views()
    mixed = pool.plain(torch.tensor([60, 3, 54, 0]), recipe)
    chosen = ((first, [3, 0]), (second, [6, 0]))
    alone = [Pool([faces], CPU).plain(torch.tensor(places), recipe) for faces, places in chosen]
    assert torch.equal(mixed, torch.stack([alone[1][0], alone[0][0], alone[1][1], alone[0][1]]))
    described = [({"reader": faces.name, "options": {}}, faces) for faces in (first, second)]
    run = resolve("mae", DECODER, replace(SMALL, epochs=1), described, 1)
    assert pretrain(run, tmp_path / "run")["images"] == 65
    with pytest.raises(DataError, match="no training images"):
        Pool([replace(first, train=first.train[:0])], CPU)


def test_a_batch_in_two_shares_is_the_batch(make_faces: MakeFaces) -> None:
    """Two processes see what one sees, row for row: views and masks."""
    pool, chosen = Pool([make_faces()], CPU), torch.arange(6)
    whole = pool.views(chosen, ("weak",), SMALL.views(), 1, 2, Share())["weak"]
    noise = draw_noise(1, 2, 6, 4, Share())
    for rank in range(2):
        share = Share(rank, 2)
        assert torch.equal(pool.views(chosen, ("weak",), SMALL.views(), 1, 2, share)["weak"], whole[rank::2])
        assert torch.equal(draw_noise(1, 2, 6, 4, share), noise[rank::2])


def test_an_epoch_is_a_pass_and_the_warm_up_fits_into_the_run() -> None:
    resolved = Settings(batch_size=10, epochs=4).resolved(57)
    assert (resolved.steps_per_epoch, resolved.warmup_epochs) == (5, 3)
    assert Settings(batch_size=100).resolved(57).steps_per_epoch == 1
    assert Settings(steps_per_epoch=7).resolved(57).steps_per_epoch == 7


def test_the_defaults_are_the_paper_s() -> None:
    """SSFER Sec. 4.2, stage (a); He et al. where it points there."""
    values = asdict(Settings())
    expected = {
        "backbone": "vit_base", "input_size": 224, "batch_size": 256, "epochs": 600, "warmup_epochs": 50, "lr": 3.4e-4,
        "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.95, "schedule": "cosine", "min_lr": 0.0, "crop_scale": 0.2,
    }  # fmt: skip
    assert {key: values[key] for key in expected} == expected


def test_what_is_decayed(make_faces: MakeFaces) -> None:
    for decay_all in (False, True):
        state = make_state(small(make_faces, replace(SMALL, decay_all=decay_all)), CPU)
        names = {id(p): name for name, p in state.objective.named_parameters()}
        decayed = {names[id(p)] for g in state.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
        every = {names[id(p)] for g in state.optimizer.param_groups for p in g["params"]}
        assert every == {name for name, p in state.objective.named_parameters() if p.requires_grad}
        flat = {name for name in every if name.endswith(("bias", "_token")) or "norm" in name}
        assert decayed == (every if decay_all else every - flat - {"decoder.1.weight"})  # a normalisation


def test_bad_requests_are_one_line(make_faces: MakeFaces) -> None:
    with pytest.raises(MethodError, match="unknown objective 'mea'; did you mean 'mae'"):
        resolve("mea", {}, SMALL, [({}, make_faces())], 1)
    with pytest.raises(MethodError, match="mae: unknown option 'mask'"):
        resolve("mae", {"mask": 1}, SMALL, [({}, make_faces())], 1)
    with pytest.raises(MethodError, match="mae.mask_ratio: expected a number, got 'much'"):
        resolve("mae", {"mask_ratio": "much"}, SMALL, [({}, make_faces())], 1)
    with pytest.raises(MethodError, match="mae.positions: 'none' is not known; valid: sincos, learned"):
        resolve("mae", {"positions": "none"}, SMALL, [({}, make_faces())], 1)
    with pytest.raises(MethodError, match="mae: mask_ratio must lie between 0 and 1"):
        resolve("mae", {"mask_ratio": 1.0}, SMALL, [({}, make_faces())], 1)
    with pytest.raises(WeightsError, match="mask_ratio=0.9 of 4 patches leaves none on one side"):
        make_state(small(make_faces, mask_ratio=0.9), CPU)
    with pytest.raises(WeightsError, match="mae needs a plain vision transformer"):
        make_state(small(make_faces, replace(SMALL, backbone="resnet18")), CPU)
    with pytest.raises(WeightsError, match="unknown backbone 'vit_huge'"):
        make_state(small(make_faces, replace(SMALL, backbone="vit_huge")), CPU)
    with pytest.raises(WeightsError, match="mae on vit_tiny: "):
        make_state(small(make_faces, SMALL, decoder_width=18), CPU)


def test_a_memory_map_is_given_back(tmp_path: Path, make_faces: MakeFaces) -> None:
    """Pages that were read do not stay in this process."""
    psutil = pytest.importorskip("psutil")
    count = 3000
    images = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.uint8, shape=(count, 64, 64, 3))
    images[:] = 7
    images.flush()
    del images
    faces = replace(
        make_faces(), images=np.load(tmp_path / "a.npy", mmap_mode="r"), train=np.arange(count),
        labels=np.zeros(count, np.int64),
    )  # fmt: skip
    pool, process = Pool([faces], CPU), psutil.Process()
    pool.plain(torch.arange(0, 10), SMALL.views())
    before = process.memory_info().rss
    for start in range(0, count, 100):
        pool._stores[0].gather(torch.arange(start, start + 100))
    grown = process.memory_info().rss - before
    pool.release()
    kept = process.memory_info().rss - before
    assert grown > 25 * 2**20 and kept < grown / 4  # 37 MB were read


def test_the_command(ferbench: Callable[..., Any], tmp_path: Path) -> None:
    settings = [f"{key}={value}" for key, value in asdict(SMALL).items() if value != getattr(Settings(), key)]
    words = [word for value in settings for word in ("--set", value)]
    words += [word for key, value in DECODER.items() for word in ("--option", f"{key}={value}")]
    words += ["--data-option", "scale=0.01", "--data-option", "size=16", "--backbone", "vit_tiny"]
    result = ferbench("pretrain", "mae", "--dataset", "synthetic", *words, "--out", "mae.pt")
    assert result.code == 0, result.err
    assert "weights of vit_tiny at 16 pixels: mae.pt" in result.out and (tmp_path / "mae.pt").exists()
    again = ferbench("pretrain", "mae", "--dataset", "synthetic", *words)
    assert again.code == 0 and len(list((tmp_path / "results" / "pretrained").iterdir())) == 1
    assert (
        "x: cannot be read: No such file"
        in ferbench("pretrain", "mae", "--dataset", "synthetic", *words, "--start", "x").error()
    )
    on = ferbench("pretrain", "mae", "--dataset", "synthetic", *words, "--start", "mae.pt", "--out", "on.pt")
    assert on.code == 0 and len(list((tmp_path / "results" / "pretrained").iterdir())) == 2
    assert (tmp_path / "on.pt").read_bytes() != (tmp_path / "mae.pt").read_bytes()
    assert "give --dataset NAME" in ferbench("pretrain", "mae", *words).error()
    assert (
        "unknown key 'epoch'; did you mean 'epochs'"
        in ferbench("pretrain", "mae", "--dataset", "synthetic", "--set", "epoch=1").error()
    )
