"""`PAPER/TABLE/ROW/COLUMN` to cells, and which settings of row and column hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ferbench.protocols import ProtocolError, cells, load_protocol, select
from ferbench.protocols.loader import FOLDER


@pytest.mark.parametrize(
    ("target", "count"),
    [
        ("remop", 18 + 16 + 28 + 28 + 26 + 6 + 5 + 6 + 12 + 4),
        ("remop/3", 28),
        ("remop/3/", 28),
        ("remop/figure4", 5),
        ("remop/3/remop", 4),
        ("remop/3/*/rafdb-500-150", 7),
        ("remop/3/remop/rafdb-500-150", 1),
        ("demo", 6),
    ],
)
def test_selector_counts(target: str, count: int) -> None:
    chosen = select(target)
    assert len(chosen) == count
    assert len({cell.id for cell in chosen}) == count
    assert [select(cell.id) for cell in chosen] == [[cell] for cell in chosen]


@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_of_ones_own_may_lie_anywhere(relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER / "demo", tmp_path / "my" / "own")
    monkeypatch.chdir(tmp_path)
    target = "my/own" if relative else str(tmp_path / "my" / "own")
    assert [cell.id for cell in select(f"{target}/1/remop")] == [cell.id for cell in select("demo/1/remop")]
    assert len(select(target)) == len(select("demo"))


UNKNOWN = {
    "paper": ("remo/3", "no protocol 'remo'; did you mean 'remop'?"),
    "table": ("remop/6", "remop has no table '6'; it has: 1, 2, 3, 4, 5, figure3, figure4"),
    "row": ("remop/3/remp", "table 3 of remop has no row 'remp' (did you mean 'remop'?); it has: vanilla"),
    "column": ("remop/5/mek/ck", "table 5 of remop has no column 'ck'; it has: rafdb, ferplus"),
    "any table": ("remop/*/remop", "table 1 of remop has no row 'remop'"),
    "depth": ("remop/3/remop/rafdb-500-50/1", "has too many parts; write PAPER/TABLE/ROW/COLUMN"),
}


@pytest.mark.parametrize(("target", "expected"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_name_lists_the_valid_ones(target: str, expected: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        select(target)
    assert expected in str(caught.value)


def test_ckplus_cell_trains_on_rafdb() -> None:
    (cell,) = select("remop/4/remop/ckplus-2000-150")
    assert (cell.dataset, cell.test, cell.unlabelled, cell.recipe_name) == ("rafdb", "ckplus", ("rest",), "rafdb")
    assert (cell.split.kind, cell.split.options) == ("long_tailed", {"n1": 2000, "gamma": 150.0})
    assert (cell.method, cell.options, cell.variant) == ("remop", {"learner": "fixmatch"}, "released")
    assert cell.seeds == (1, 2, 3)


def test_inter_dataset_cell() -> None:
    (ours,) = select("remop/5/remop/ferplus")
    recipe = ours.recipe("paper")
    assert (ours.unlabelled, ours.split.kind, ours.test) == (("affectnet",), "full", "ferplus")
    assert (recipe.mu, recipe.batch_size, recipe.epochs, recipe.steps_per_epoch) == (5, 32, 80, 1000)
    (baseline,) = select("remop/5/baseline/ferplus")
    assert (baseline.method, baseline.unlabelled, baseline.published_only) == ("vanilla", (), False)


def test_published_only_cells_are_among_them() -> None:
    chosen = cells(load_protocol("remop"), "5")
    assert {cell.row.id for cell in chosen if cell.published_only} == {"mek"}
    (mek,) = cells(load_protocol("remop"), "5/mek/ferplus")
    assert mek.published("overall") is None


def test_row_settings_stand_before_the_columns(tmp_path: Path) -> None:
    toml = (Path(load_protocol("demo").path)).read_text(encoding="utf-8")
    row = 'method = "vanilla"\nvariant = "released"\nsplit = "200-50"\nunlabelled = ["synthetic"]'
    (tmp_path / "protocol.toml").write_text(toml.replace('method = "vanilla"', row), encoding="utf-8")
    changed, kept = cells(load_protocol(tmp_path), "1/*/synthetic-200-20")[:2]
    assert (changed.variant, changed.split_name, changed.unlabelled) == ("released", "200-50", ("synthetic",))
    assert (kept.variant, kept.split_name, kept.unlabelled) == ("paper", "200-20", ("rest",))


def test_demo_splits_fit_its_class_sizes() -> None:
    """Labelled counts by the paper's rule (slow loop) stay under the synthetic set's sizes, and none is empty."""
    protocol = load_protocol("demo")
    scale = protocol.datasets["synthetic"].options["scale"]
    assert isinstance(scale, float)
    sizes = sorted((int(scale * size) for size in (1290, 281, 717, 4772, 1982, 705, 2524)), reverse=True)
    for split in protocol.splits.values():
        for k, size in enumerate(sizes):
            count = int(split.options["n1"] * split.options["gamma"] ** (-k / 6))
            assert 4 <= count <= size / 2
