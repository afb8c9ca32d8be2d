"""Parameters and multiply-adds: SSFER's Table 6 recomputed, small networks by hand, and `ferbench cost`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench.studies import afterwards
from ferbench.bench.studies.cost import backbone_cost
from ferbench.bench.training.networks.backbones import BACKBONES, WHERE_TO_GET
from ferbench.protocols import load_protocol

Ferbench = Callable[..., Any]
(TABLE,) = [table for table in load_protocol("ssfer").tables if table.id == "6"]
NETWORKS = {row.id: str(row.recipe_options["backbone"]) for row in TABLE.rows if row.recipe_options}


@pytest.mark.parametrize("row", NETWORKS)
def test_table_6_is_recomputed(row: str) -> None:
    """Parameters to the last digit printed, but VGG13's, which is cut; four networks' multiply-adds a digit less."""
    cost = backbone_cost(NETWORKS[row], 224)
    params, flops = (TABLE.published[(row, "rafdb", name)].mean for name in ("params", "flops"))
    digits = 2 if row == "vit-tiny" else 1
    assert round(cost.metrics()["params"] - (0.05 if row == "vgg13" else 0), digits) == params
    less = 0.1 if row in ("vgg13", "vit-small", "vit-base", "vit-large") else 0.0
    assert round(cost.metrics()["flops"], 1) == pytest.approx(flops - less)


@pytest.mark.parametrize("row", ["vit-tiny", "vit-small", "vit-base", "vit-large"])
def test_position_tables_and_tokens_are_in_none_of_table_6s_figures(row: str) -> None:
    cost = backbone_cost(NETWORKS[row], 224)
    width = {"vit-tiny": 192, "vit-small": 384, "vit-base": 768, "vit-large": 1024}[row]
    assert cost.parameters - cost.in_layers == (1 + 14 * 14 + 1) * width
    printed = TABLE.published[(row, "rafdb", "params")].mean
    assert round(cost.parameters / 1e6, 2 if row == "vit-tiny" else 1) != printed


def test_ssfers_own_rows_are_vit_base() -> None:
    found = backbone_cost("vit_base", 224).metrics()
    for row in ("ssfer-5", "ssfer-10", "ssfer-25"):
        assert round(found["params"], 1) == TABLE.published[(row, "rafdb", "params")].mean == 85.7
        assert round(found["flops"], 1) + 0.1 == pytest.approx(TABLE.published[(row, "rafdb", "flops")].mean)


def test_transformer_by_hand() -> None:
    """Tokens times weights of the layers; queries times keys and weights times values apart."""
    cost = backbone_cost("vit_tiny", 48)
    tokens, width, layers, patch = 1 + 6 * 6, 192, 4, 3 * 8 * 8
    block = 3 * width * width + width * width + 2 * 4 * width * width  # attention's four matrices, the MLP's two
    assert cost.layers == 36 * patch * width + layers * tokens * block + width * 7
    assert cost.attention == layers * 2 * tokens * tokens * width
    weights = block + 3 * width + width + 4 * width + width + 2 * 2 * width  # and biases, two layer norms
    assert cost.parameters - cost.in_layers == tokens * width + width  # the position table and the class token
    assert (
        cost.parameters == patch * width + width + layers * weights + tokens * width + width + 2 * width + 7 * width + 7
    )


def test_every_weight_file_of_the_papers_says_where_to_get_it() -> None:
    for paper in ("ssfer", "pll"):
        protocol = load_protocol(paper)
        named = {recipe.weights for recipe in protocol.recipes.values()}
        named |= {str(preset["weights"]) for preset in protocol.presets.values() if "weights" in preset}
        named |= {str(row.recipe_options.get("weights", "none")) for table in protocol.tables for row in table.rows}
        assert named - {"none"} <= set(WHERE_TO_GET)


def test_every_backbone_of_the_papers_is_there() -> None:
    for paper in ("ssfer", "pll"):
        protocol = load_protocol(paper)
        named = {recipe.backbone for recipe in protocol.recipes.values()}
        named |= {str(preset["backbone"]) for preset in protocol.presets.values() if "backbone" in preset}
        assert named | set(NETWORKS.values()) <= set(BACKBONES)


def test_cost_of_a_backbone_and_of_all(ferbench: Ferbench, monkeypatch: pytest.MonkeyPatch) -> None:
    one = ferbench("cost", "resnet18")
    assert one.code == 0 and "11.180" in one.out and "1.814" in one.out
    small = ferbench("cost", "resnet18", "--size", 112)
    assert "11.180" in small.out and "1.814" not in small.out
    monkeypatch.setattr(afterwards, "BACKBONES", {name: BACKBONES[name] for name in ("vit_tiny", "resnet_small")})
    assert [name in ferbench("cost", "--size", 48).out for name in ("vit_tiny", "resnet_small", "vgg11")] == [
        True,
        True,
        False,
    ]


def test_cost_of_a_run_is_kept_beside_its_record(ferbench: Ferbench, tmp_path: Path, tiny_arguments: list[str]) -> None:
    assert ferbench("train", "fixmatch", *tiny_arguments).code == 0
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert ferbench("cost", folder.name).code == 0
    kept = json.loads((folder / "extra-cost.json").read_text())["metrics"]
    assert kept == {name: round(value, 4) for name, value in backbone_cost("resnet_small", 16).metrics().items()}


def test_unknown_name_is_one_line(ferbench: Ferbench) -> None:
    failed = ferbench("cost", "resnet19")
    assert failed.code == 2 and "no run 'resnet19'" in failed.error()
