"""How many labels of each class: the counts that the papers print, or that their code makes, from class sizes alone."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.splits.counts import RANGES, requested_counts
from ferbench.bench.tables.settings import settings
from ferbench.protocols import ProtocolError, Split, cells, load_protocol
from ferbench.protocols.schema import SPLIT_ALWAYS, SPLIT_KEYS, SPLIT_OPTIONAL
from ferbench.validation import build

RAFDB = dict(surprise=1290, fear=281, disgust=717, happiness=4772, sadness=1982, anger=705, neutral=2524)
AFFECTNET8 = dict(
    neutral=74874, happiness=134415, sadness=25459, surprise=14090, fear=6378, disgust=3803, anger=24882, contempt=3750
)
AFFECTNET7 = {name: size for name, size in AFFECTNET8.items() if name != "contempt"}
# fer2013new.csv, argmax over its ten columns: 28,389 images, as SSFER must have had
FERPLUS_ARGMAX = dict(
    neutral=10309, happiness=7528, surprise=3562, sadness=3515, anger=2467, disgust=191, fear=652, contempt=165
)
# label.csv, majority, training and validation parts: 28,236 images, as in LEAF's code
FERPLUS_LEAF = dict(
    neutral=9913, happiness=8146, surprise=3547, sadness=3370, anger=2387, disgust=141, fear=596, contempt=136
)
SFEW_ALIGNED = dict(anger=178, disgust=52, fear=78, happiness=184, neutral=144, sadness=161, surprise=94)
SFEW_FRAMES = dict(anger=178, disgust=66, fear=98, happiness=198, neutral=150, sadness=172, surprise=96)


def short(counts: dict[str, int], sizes: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count > sizes[name]}


@pytest.mark.parametrize(
    ("labels", "fear", "others", "unlabelled"),
    [(100, 10, 15, 12171), (400, 40, 60, 11871), (1000, 100, 150, 11271), (2000, 200, 300, 10271),
     (4000, 250, 625, 8271)],
)  # fmt: skip
def test_adacm_readme_table(labels: int, fear: int, others: int, unlabelled: int) -> None:
    found = requested_counts("adacm", {"labels": labels}, RAFDB)
    assert found == dict.fromkeys(RAFDB, others) | {"fear": fear}
    assert sum(found.values()) == labels and sum(RAFDB.values()) - labels == unlabelled
    assert not short(found, RAFDB)


@pytest.mark.parametrize(
    ("asked", "labelled", "unlabelled"),
    [(100, 12090, 181), (400, 400, 11871), (1000, 1000, 11271), (2000, 1996, 10275), (4000, 4000, 8271)],
)
def test_adacm_released_data_split(asked: int, labelled: int, unlabelled: int) -> None:
    """Against Python's own slice of a class's list, which is what the released code takes."""
    found = requested_counts("adacm_released", {"labels": asked}, RAFDB)
    members = {name: list(range(size)) for name, size in RAFDB.items()}
    sliced = {name: len(images[: int((asked - 250) / 6)]) for name, images in members.items()}
    assert found == sliced | {"fear": 250}
    assert sum(found.values()) == labelled and sum(RAFDB.values()) - labelled == unlabelled


def test_adacm_names_the_totals_it_has() -> None:
    with pytest.raises(DataError, match=r"labels must be one of 100, 400, 1000, 2000, 4000 \(its README\), not 200"):
        requested_counts("adacm", {"labels": 200}, RAFDB)


@pytest.mark.parametrize(
    ("sizes", "asked", "per_class", "total"),
    [
        (RAFDB, 100, 14, 98), (RAFDB, 200, 28, 196), (RAFDB, 400, 57, 399),
        (FERPLUS_LEAF, 100, 12, 96), (FERPLUS_LEAF, 200, 25, 200), (FERPLUS_LEAF, 400, 50, 400),
        (AFFECTNET7, 500, 71, 497), (AFFECTNET7, 1000, 142, 994), (AFFECTNET7, 2000, 285, 1995),
        (AFFECTNET8, 500, 62, 496), (AFFECTNET8, 1000, 125, 1000), (AFFECTNET8, 2000, 250, 2000),
    ],
)  # fmt: skip
def test_total_is_leaf_s_floor(sizes: dict[str, int], asked: int, per_class: int, total: int) -> None:
    found = requested_counts("total", {"labels": asked}, sizes)
    assert set(found.values()) == {per_class} and sum(found.values()) == total
    assert not short(found, sizes)


def test_class_sizes_are_those_of_the_papers() -> None:
    assert sum(RAFDB.values()) == 12271
    assert (sum(AFFECTNET7.values()), sum(AFFECTNET8.values())) == (283901, 287651)
    assert (sum(FERPLUS_ARGMAX.values()), sum(FERPLUS_LEAF.values())) == (28389, 28236)
    assert (sum(SFEW_ALIGNED.values()), sum(SFEW_FRAMES.values())) == (891, 958)


@pytest.mark.parametrize(
    ("sizes", "fraction", "total"),
    [
        (RAFDB, 0.01, 123), (RAFDB, 0.05, 613), (RAFDB, 0.1, 1226), (RAFDB, 0.25, 3067),
        (AFFECTNET7, 0.01, 2840), (AFFECTNET7, 0.05, 14195), (AFFECTNET7, 0.1, 28390),
        (AFFECTNET8, 0.01, 2878), (AFFECTNET8, 0.05, 14383), (AFFECTNET8, 0.1, 28765),
        (FERPLUS_ARGMAX, 0.05, 1419), (FERPLUS_ARGMAX, 0.1, 2839), (FERPLUS_ARGMAX, 0.25, 7097),
    ],
)  # fmt: skip
def test_fraction_counts_of_ssfer(sizes: dict[str, int], fraction: float, total: int) -> None:
    assert sum(requested_counts("fraction", {"fraction": fraction}, sizes).values()) == total


@pytest.mark.parametrize(("per_class", "total"), [(10, 70), (25, 175), (100, 700), (250, 1750)])
@pytest.mark.parametrize("sizes", [RAFDB, AFFECTNET7], ids=["rafdb", "affectnet7"])
def test_balanced_counts_of_ssfer(sizes: dict[str, int], per_class: int, total: int) -> None:
    found = requested_counts("balanced", {"per_class": per_class}, sizes)
    assert sum(found.values()) == total and not short(found, sizes)


def test_400_labels_of_sfew_need_an_exception() -> None:
    """57 of each class are more than the aligned release has of disgust; with all its 52 the others get 58."""
    assert short(requested_counts("total", {"labels": 400}, SFEW_ALIGNED), SFEW_ALIGNED) == {"disgust": 57}
    assert not short(requested_counts("total", {"labels": 400}, SFEW_FRAMES), SFEW_FRAMES)
    found = requested_counts("balanced", {"per_class": 58, "exceptions": {"disgust": 52}}, SFEW_ALIGNED)
    assert sum(found.values()) == 400 and not short(found, SFEW_ALIGNED)


def test_every_parameter_of_a_protocol_has_a_range_here() -> None:
    named = {key for keys in (*SPLIT_KEYS.values(), *SPLIT_OPTIONAL.values(), SPLIT_ALWAYS) for key in keys}
    assert named == set(RANGES) | {"exceptions"} == {field.name for field in fields(Split)} - {"kind"}


@pytest.mark.parametrize("key", RANGES)
def test_ranges_agree_with_those_of_protocols(key: str) -> None:
    """The same values are refused in a protocol file and in a split, at and beside every limit."""
    kind = next((kind for kind in SPLIT_KEYS if key in (*SPLIT_KEYS[kind], *SPLIT_OPTIONAL.get(kind, ()))), "full")
    yes_or_no = key in ("own_folds", "overlap")
    for value in (False, True) if yes_or_no else (-1, 0, 1, 2, 0.0, 0.5, 0.99, 1.0, 1.5):
        whole = isinstance(value, float) and value.is_integer()
        if whole and "whole" in RANGES[key][1]:
            continue  # TOML tells 1.0 from 1, a split does not
        try:
            build(Split, {"kind": kind, key: value}, "here", ProtocolError)
            allowed = True
        except ProtocolError:
            allowed = False
        assert RANGES[key][0](value) == allowed, (key, value)


@pytest.mark.parametrize(
    ("lines", "kind", "parameters"),
    [
        ('kind = "total"\nlabels = 21', "total", {"labels": 21}),
        ('kind = "adacm"\nlabels = 100\noverlap = true', "adacm", {"labels": 100, "overlap": True}),
        ('kind = "balanced"\nper_class = 2\nexceptions = { fear = 1 }', "balanced",
         {"per_class": 2, "exceptions": {"fear": 1}}),
        ('kind = "fraction"\nfraction = 0.5\nnoise = 0.1', "fraction", {"fraction": 0.5, "noise": 0.1}),
        ('kind = "kfold"\nfolds = 5\nfraction = 0.5', "kfold", {"folds": 5, "fraction": 0.5}),
        ('kind = "kfold"\nfolds = 5\nfold = 2\nfold_seed = 7\nfraction = 1.0\nown_folds = true', "kfold",
         {"folds": 5, "fold": 2, "fold_seed": 7, "fraction": 1.0, "own_folds": True}),
    ],
    ids=["total", "overlap", "exceptions", "noise", "fold by seed", "fold"],
)  # fmt: skip
def test_a_protocol_s_split_becomes_the_run_s(
    tiny_protocol: Path, lines: str, kind: str, parameters: dict[str, object]
) -> None:
    cell = cells(load_protocol(_with_split(tiny_protocol, lines)), "1/vanilla")[0]
    assert settings(cell, "cpu", 1)["split"] == {"kind": kind, "parameters": {**parameters, "validation": 0.0}}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('kind = "total"', "a total split needs 'labels'"),
        ('kind = "balanced"\nper_class = 2\nfold = 1', "'fold' does not belong to a balanced split"),
        ('kind = "kfold"\nfolds = 5', "a kfold split needs 'fraction'"),
        ('kind = "full"\nexceptions = { fear = 1 }', "'exceptions' does not belong to a full split"),
        ('kind = "full"\nnoise = 1.0', "noise: must be below 1.0, got 1.0"),
    ],
)
def test_a_protocol_s_split_is_checked(tiny_protocol: Path, lines: str, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected):
        load_protocol(_with_split(tiny_protocol, lines))


def _with_split(protocol: Path, lines: str) -> Path:
    """The protocol with its first split's lines replaced."""
    path = protocol / "protocol.toml"
    text, times = re.subn(r"(\[splits\.200-20\]\n)[^\[]*", rf"\1{lines}\n\n", path.read_text(encoding="utf-8"))
    assert times == 1
    path.write_text(text, encoding="utf-8")
    return protocol
