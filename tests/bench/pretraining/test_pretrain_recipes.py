"""Pre-training recipes of the protocols: held to the papers, used by the command, and refused in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.pretraining.command import resolve_command
from ferbench.bench.pretraining.options import objective_values
from ferbench.bench.pretraining.settings import Settings
from ferbench.bench.pretraining.state import Pretraining
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.training.networks.backbones import WHERE_TO_GET
from ferbench.bench.training.recording import records
from ferbench.protocols import ProtocolError, load_protocol, protocol_names

Command = Callable[..., Any]
PLL = load_protocol("pll")
RECIPES = [(name, objective) for name in protocol_names() for objective in load_protocol(name).pretraining]


class Drawn(Workspace):
    """Every data set is the same few squares, whatever its reader; what was asked for is kept."""

    def __init__(self, faces: FaceSet) -> None:
        super().__init__(Path("nowhere"), Path("nowhere"))
        self.drawn, self.opened = faces, list[tuple[str, dict[str, Any]]]()

    def faces(self, reader: str, options: Any) -> FaceSet:
        self.opened.append((reader, dict(options)))
        return self.drawn


@pytest.fixture
def asked(make_faces: Callable[..., FaceSet]) -> Callable[..., Pretraining]:
    """The run that `ferbench pretrain OBJECTIVE --recipe PROTOCOL` stands for; on an unprepared set of 54 images."""

    def make(objective: str, recipe: str = "", dataset: str = "", **settings: object) -> Pretraining:
        return resolve_command(
            objective, dataset, None, {}, {}, settings, 1, False, Drawn(make_faces()), recipe=recipe
        )  # fmt: skip

    return make


def printed(rate: float, batch: int, of: int = 256) -> float:
    """A base learning rate is of 256 images; SimMIM's of 512 (its main_simmim.py)."""
    return rate * batch / of


COMMON: dict[str, object] = {"backbone": "vit_base", "input_size": 224, "schedule": "cosine", "clip": 0.0}
ADAMW: dict[str, object] = {**COMMON, "optimizer": "adamw", "weight_decay": 0.05, "warmup_epochs": 40, "beta1": 0.9}


def holds(objective: str, settings: dict[str, object], **options: object) -> None:
    recipe = PLL.pretraining[objective]
    chosen = asdict(Settings(**recipe.settings))  # type: ignore[arg-type]
    for key, value in settings.items():
        assert chosen[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    values = objective_values(objective, recipe.options)
    assert {key: values[key] for key in options} == options


def test_section_4_b_maskfeat_where_it_contradicts_table_2() -> None:
    """192 at 2e-4 and 40 %; Table II has 1024(2048) at a base of 2.5e-5 and 85%(40%)."""
    holds("maskfeat", {"batch_size": 192, "lr": 2e-4, "epochs": 600}, mask_ratio=0.4)
    assert printed(2.5e-5, 2048) == pytest.approx(2e-4)  # where the text's rate may come from


def test_table_2_maskfeat_for_the_rest() -> None:
    holds("maskfeat", {**ADAMW, "beta2": 0.999, "epochs": 600}, cell=8, orientations=9)


def test_table_2_mae() -> None:
    settings = {**ADAMW, "beta2": 0.95, "epochs": 600, "batch_size": 1024, "lr": printed(1.5e-4, 1024)}
    holds("mae", settings, mask_ratio=0.85, norm_pix=True)


def test_table_3_simmim() -> None:
    settings = {**ADAMW, "beta2": 0.95, "epochs": 800, "batch_size": 1024, "lr": printed(1.5e-4, 1024, 512)}
    holds("simmim", settings, mask_ratio=0.75, square=16)


def test_table_3_moco() -> None:
    settings = {
        **COMMON, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "warmup_epochs": 0, "epochs": 200,
        "batch_size": 256, "lr": printed(0.03, 256),
    }  # fmt: skip
    holds("moco", settings, queue=65536, temperature=0.07, head="linear")


def table(name: str) -> dict[str, dict[str, str]]:
    """The printed Table II or III: objective to line to cell."""
    root = os.environ.get("FERBENCH_PAPERS_ROOT")
    if not root:
        pytest.skip("FERBENCH_PAPERS_ROOT is not set: the folder that holds pll.txt")
    text = (Path(root) / "pll.txt").read_text(encoding="utf-8").splitlines()
    start = text.index(f"configs\t{name}")
    names = text[start].lower().split("\t")[1:]
    lines = [line.split("\t") for line in text[start + 1 : text.index("", start)]]
    return {objective: {line[0]: line[1 + i] for line in lines} for i, objective in enumerate(names)}


def first(cell: str) -> float:
    """The number before the brackets."""
    found = re.match(r"[\d.e-]+", cell)
    assert found, cell
    return float(found[0])


@pytest.mark.parametrize("objective", ["mae", "maskfeat", "moco", "simmim"])
def test_tables_2_and_3_as_the_text_has_them(objective: str) -> None:
    cells = {**table("MAE\tMaskFeat"), **table("MoCo\tSimMIM")}[objective]
    recipe = PLL.pretraining[objective]
    chosen = Settings(**recipe.settings)  # type: ignore[arg-type]
    assert chosen.epochs == first(cells["Epoch"])
    assert chosen.warmup_epochs == first(cells["Warm Up"])
    assert chosen.weight_decay == first(cells["Weight_Decay"])
    assert chosen.optimizer == cells["Optimizer"].lower()
    momentum = [float(value) for value in cells["Optimizer Momentum"].split(",")]
    assert momentum == ([chosen.momentum] if objective == "moco" else [chosen.beta1, chosen.beta2])
    if objective == "maskfeat":  # Section IV-B stands before the table
        assert (chosen.batch_size, first(cells["Batch_Size"]), cells["Mask-Ratio"]) == (192, 1024, "85%(40%)")
        return
    assert chosen.batch_size == first(cells["Batch_Size"])
    of = 512 if objective == "simmim" else 256
    assert chosen.lr == pytest.approx(printed(first(cells["Base Learning Rate"]), chosen.batch_size, of))
    if objective != "moco":
        assert 100 * float(recipe.options["mask_ratio"]) == first(cells["Mask-Ratio"])
        assert objective_values(objective, recipe.options).get("square", 16) == first(cells["Mask_Patch"])
    assert bool(recipe.options.get("norm_pix")) == (cells["-Norm_Pix_Loss"] == "True")


def test_section_4_b_as_the_text_has_it() -> None:
    root = os.environ.get("FERBENCH_PAPERS_ROOT")
    if not root:
        pytest.skip("FERBENCH_PAPERS_ROOT is not set: the folder that holds pll.txt")
    text = (Path(root) / "pll.txt").read_text(encoding="utf-8")
    wanted = (
        r"for (\d+) epochs with batch size (\d+) and learning rate (\S+)\. We set the mask ratio of Maskfeat to (0\.4)"
    )
    found = re.search(wanted, text)
    assert found
    settings, options = PLL.pretraining["maskfeat"].settings, PLL.pretraining["maskfeat"].options
    stored = [settings["epochs"], settings["batch_size"], settings["lr"], options["mask_ratio"]]
    assert stored == [float(value) for value in found.groups()]


def test_section_4_c_the_three_data_sets_of_fine_tuning(make_faces: Callable[..., FaceSet]) -> None:
    for objective, recipe in PLL.pretraining.items():
        workspace = Drawn(make_faces())
        resolve_command(objective, "", None, {}, {}, {}, 1, False, workspace, recipe="pll")
        sets = [PLL.datasets[name] for name in ("rafdb", "ferplus", "affectnet8")]
        assert list(recipe.datasets) == ["rafdb", "ferplus", "affectnet8"]
        assert workspace.opened == [(data.reader, dict(data.options)) for data in sets]


def test_pre_training_normalises_as_the_fine_tuning_that_starts_from_it() -> None:
    """Every recipe of pll that starts from these weights, and each objective; SSFER's likewise."""
    for name in ("pll", "ssfer"):
        protocol = load_protocol(name)
        recipes = [recipe for recipe in protocol.recipes.values() if recipe.weights.endswith(("_fer", "ssfer_mae"))]
        assert recipes and protocol.pretraining
        for recipe in recipes:
            for pretraining in protocol.pretraining.values():
                chosen = Settings(**pretraining.settings)  # type: ignore[arg-type]
                assert chosen.mean_std == recipe.mean_std
                assert (chosen.input_size, chosen.backbone) == (recipe.input_size, recipe.backbone)


def test_ssfer_section_4_2_is_what_the_command_does_by_default(asked: Callable[..., Pretraining]) -> None:
    with_recipe, without = asked("mae", "ssfer", "synthetic"), asked("mae", "", "synthetic")
    assert with_recipe.spec == without.spec
    assert (without.settings.epochs, without.settings.lr, without.settings.mean_std) == (600, 3.4e-4, "ssfer")
    assert asked("mae", "pll", "synthetic").spec != without.spec


@pytest.mark.parametrize(("name", "objective"), RECIPES)
def test_every_recipe_fits_its_objective(asked: Callable[..., Pretraining], name: str, objective: str) -> None:
    run, recipe = asked(objective, name, "synthetic"), load_protocol(name).pretraining[objective]
    for key, value in recipe.settings.items():
        assert getattr(run.settings, key) == value, key
    assert {key: run.values[key] for key in recipe.options} == dict(recipe.options)


def test_the_command_line_stands_before_the_recipe(asked: Callable[..., Pretraining]) -> None:
    run = asked("maskfeat", "pll", "synthetic", epochs=50, mean_std="ssfer")
    assert (run.settings.epochs, run.settings.mean_std, run.settings.lr) == (50, "ssfer", 2e-4)


def test_where_to_get_names_commands_that_there_are() -> None:
    """Each objective of pll writes the weights that its rows start from; the command has a recipe."""
    for objective in PLL.pretraining:
        assert f"`ferbench pretrain {objective} --recipe pll`" in WHERE_TO_GET[f"{objective}_fer"]
    commands = re.findall(r"`ferbench pretrain (\w+) --recipe (\w+)", " ".join(WHERE_TO_GET.values()))
    assert len(commands) == len(PLL.pretraining) + 1
    for objective, name in commands:
        assert objective in load_protocol(name).pretraining
    named = {recipe.weights for recipe in PLL.recipes.values()}
    named |= {str(row.recipe_options.get("weights")) for table in PLL.tables for row in table.rows}
    assert {f"{objective}_fer" for objective in PLL.pretraining} == {name for name in named if name.endswith("_fer")}


RECIPE = """
[pretraining.mae]
datasets = ["synthetic"]

[pretraining.mae.settings]
backbone = "vit_tiny"
input_size = 16
batch_size = 4
epochs = 2
steps_per_epoch = 2
warmup_epochs = 1

[pretraining.mae.options]
decoder_width = 16
decoder_depth = 1
decoder_heads = 2
"""


def test_a_recipe_from_end_to_end(ferbench: Command, tiny_protocol: Path, tmp_path: Path) -> None:
    """Data sets, settings and options are the recipe's; what the command says stands before them."""
    file = tiny_protocol / "protocol.toml"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole + RECIPE, encoding="utf-8")
    done = ferbench("pretrain", "mae", "--recipe", tiny_protocol, "--set", "epochs=1", "--option", "decoder_heads=1")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "results" / "pretrained").iterdir()
    spec = records.read_json(folder / "spec.json")
    assert (spec["settings"]["backbone"], spec["settings"]["batch_size"], spec["settings"]["epochs"]) == (
        "vit_tiny",
        4,
        1,
    )
    assert (spec["options"]["decoder_width"], spec["options"]["decoder_heads"]) == (16, 1)
    protocol = load_protocol(tiny_protocol)
    assert [data["reader"] for data in spec["data"]] == ["synthetic"]
    assert spec["data"][0]["options"]["scale"] == protocol.datasets["synthetic"].options["scale"]
    other = ferbench("pretrain", "mae", "--recipe", tiny_protocol, "--backbone", "vit_small", "--set", "epochs=0")
    assert "--set.epochs: must be at least 1" in other.error()


@pytest.mark.parametrize(
    ("arguments", "change", "words"),
    [
        (["moco"], ("", ""), "tiny has no pre-training recipe for 'moco'; it has: mae"),
        (["mae", "--set", "epoch=1"], ("", ""), "--set: unknown key 'epoch'; did you mean 'epochs'?"),
        (["mae"], ("warmup_epochs", "warm_up"), "pretraining.mae.settings: unknown key 'warm_up'"),
        (
            ["mae"],
            ("batch_size = 4\nepochs", "batch_size = 0\nepochs"),
            "settings.batch_size: must be at least 1, got 0",
        ),
        (
            ["mae"],
            ("decoder_heads", "decoder_head"),
            "mae: unknown option 'decoder_head'; did you mean 'decoder_heads'",
        ),
        (["mae"], ('datasets = ["synthetic"]', 'datasets = ["rafdb"]'), "pretraining.mae.datasets: no 'rafdb'"),
        (
            ["mae"],
            ('datasets = ["synthetic"]', 'dataset = "synthetic"'),
            "unknown key 'dataset'; did you mean 'datasets'?",
        ),
        (["mae"], ('datasets = ["synthetic"]', ""), "nothing to pre-train on: give --dataset NAME"),
    ],
)
def test_wrong_requests_are_one_line(
    ferbench: Command, tiny_protocol: Path, arguments: list[str], change: tuple[str, str], words: str
) -> None:
    file = tiny_protocol / "protocol.toml"
    recipe = RECIPE.replace(*change) if change[0] else RECIPE
    assert (recipe != RECIPE) == bool(change[0])
    file.write_text(file.read_text(encoding="utf-8") + recipe, encoding="utf-8")
    done = ferbench("pretrain", *arguments, "--recipe", tiny_protocol)
    assert done.code == 2 and words in done.error()


def test_unknown_protocols_are_one_line(ferbench: Command) -> None:
    assert "no protocol 'plx'; did you mean 'pll'?" in ferbench("pretrain", "mae", "--recipe", "plx").error()
    assert "leaf has no pre-training recipe for 'mae'; it has: none" in ferbench(
        "pretrain", "mae", "--recipe", "leaf"
    ).error()  # fmt: skip
    with pytest.raises(ProtocolError, match="ssfer has no pre-training recipe for 'simmim'; it has: mae"):
        resolve_command("simmim", "", None, {}, {}, {}, 1, False, Workspace(Path(), Path()), recipe="ssfer")
