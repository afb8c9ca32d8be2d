"""Parameters and multiply-adds: SSFER's Table 6 recomputed, small networks by hand, and `ferbench cost`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench import afterwards
from ferbench.bench.backbones import BACKBONES, WHERE_TO_GET
from ferbench.bench.cost import backbone_cost
from ferbench.protocols import load_protocol

Ferbench = Callable[..., Any]
(TABLE,) = [table for table in load_protocol("ssfer").tables if table.id == "6"]
NETWORKS = {row.id: str(row.recipe_options["backbone"]) for row in TABLE.rows if row.recipe_options}


@pytest.mark.parametrize("row", NETWORKS)
def test_table_6_is_recomputed(row: str) -> None:
    """Up to 1.4 % under the printed multiply-adds, whose counter takes normalisation and pooling in as well."""
    found = backbone_cost(NETWORKS[row], 224).metrics()
    for name, value in found.items():
        printed = TABLE.published[(row, "rafdb", name)].mean
        assert value == pytest.approx(printed, rel=0.015 if name == "flops" else 0.008, abs=0.05)


def test_ssfers_own_rows_are_vit_base() -> None:
    found = backbone_cost("vit_base", 224).metrics()
    assert found["params"] == pytest.approx(85.7, rel=0.002)
    assert found["flops"] == pytest.approx(16.9, rel=0.005)


def test_transformer_by_hand() -> None:
    """Tokens times weights of the layers; queries times keys and weights times values apart."""
    cost = backbone_cost("vit_tiny", 48)
    tokens, width, layers, patch = 1 + 6 * 6, 192, 4, 3 * 8 * 8
    block = 3 * width * width + width * width + 2 * 4 * width * width  # attention's four matrices, the MLP's two
    assert cost.layers == 36 * patch * width + layers * tokens * block + width * 7
    assert cost.attention == layers * 2 * tokens * tokens * width
    weights = block + 3 * width + width + 4 * width + width + 2 * 2 * width  # and biases, two layer norms
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
