"""The real FERPlus against the counts measured on Microsoft's files. Needs FERBENCH_FERPLUS_ROOT; never copied here."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.preparing.cache import Prepared, load_prepared
from ferbench.bench.data.preparing.decode import to_rgb
from ferbench.bench.data.preparing.faces.detect import load_detector
from ferbench.bench.data.reading.report import PreparedReport
from ferbench.bench.data.sets.ferplus.checks import image_counts, row_counts
from ferbench.bench.data.sets.ferplus.index import image_votes, row_votes
from ferbench.bench.data.sets.ferplus.labels import decide
from ferbench.bench.data.sets.ferplus.reader import PUBLISHED_PIXELS, open_ferplus
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset
from ferbench.bench.data.views.batches import Batches, ImageStore, Share, Stream
from ferbench.bench.data.views.boxes import without_boxes
from ferbench.bench.training.state import view_recipe
from ferbench.methods import Views
from ferbench.methods.blocks import facemix
from ferbench.protocols import load_protocol

ROOT = os.environ.get("FERBENCH_FERPLUS_ROOT")
pytestmark = pytest.mark.skipif(not ROOT, reason="FERBENCH_FERPLUS_ROOT names no copy of FERPlus")

# Rows: the eight classes in column order, kept with 8, kept with 7 classes, unknown, NF; cells: train/valid/test.
TABLES = {
    "label_csv": """
        majority          argmax10          argmax8           probability       multi_target
        8733/1180/1083    10295/1329/1258   10377/1341/1274   10107/1311/1250   10056/1303/1238
        7284/862/892      7526/899/928      7537/899/929      7501/897/925      7489/893/921
        3136/411/394      3557/458/447      3583/461/450      3517/452/438      3481/447/440
        3022/348/382      3530/415/446      3559/419/449      3445/406/437      3410/400/435
        2098/289/269      2463/325/321      2476/326/322      2401/319/315      2337/312/298
        116/25/16         191/32/20         195/34/21         170/29/20         150/29/18
        536/60/86         655/71/97         659/72/98         643/69/96         598/67/93
        120/16/15         168/26/28         170/27/30         163/25/26         146/21/23
        25045/3191/3137   28385/3555/3545   28556/3579/3573   27947/3508/3507   27667/3472/3466
        24925/3175/3122   28217/3529/3517   28386/3552/3543   27784/3483/3481   27521/3451/3443
        3511/388/436      171/23/28         -                 609/71/66         889/106/107
        2/0/0             2/1/0             -                 2/0/0             2/1/0
        """,
    "new_csv": """
        majority          argmax10          argmax8           probability       multi_target
        8740/1182/1090    10309/1335/1262   10388/1347/1278   10122/1317/1251   10071/1307/1243
        7287/865/893      7528/899/928      7539/899/929      7503/897/925      7492/893/921
        3149/415/396      3562/456/444      3588/459/446      3524/450/435      3486/446/438
        3014/351/384      3515/412/444      3549/418/448      3430/401/435      3399/400/434
        2100/287/273      2467/319/325      2478/320/326      2407/314/320      2327/307/302
        119/24/18         191/34/23         194/36/23         169/31/22         153/30/21
        532/62/83         652/74/93         656/75/94         641/72/92         598/71/90
        119/13/16         165/24/27         167/25/29         160/23/25         145/18/23
        25060/3199/3153   28389/3553/3546   28559/3579/3573   27956/3505/3505   27671/3472/3472
        24941/3186/3137   28224/3529/3519   28392/3554/3544   27796/3482/3480   27526/3454/3449
        3499/380/420      170/25/27         -                 603/74/68         888/106/101
        2/0/1             2/1/1             -                 2/0/1             2/1/1
        """,
}
CANDIDATES = {  # label.csv: images with one, two, three candidates, per part
    "multi_target": ((20543, 6985, 139), (2679, 774, 19), (2606, 851, 9)),
    "probability": ((19021, 7878, 1048), (2508, 861, 139), (2437, 967, 103)),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> PreparedReport:
    return prepare_dataset("ferplus", {}, root=Path(str(ROOT)), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def prepared(report: PreparedReport) -> Prepared:
    return load_prepared(Path(str(report.folder)), "ferplus")


def cells(source: str) -> list[tuple[str, int, int, str]]:
    """(rule, line of the table, part, published count) of every cell that the table gives."""
    rules, *lines = (line.split() for line in TABLES[source].strip().splitlines())
    return [
        (rule, line, part, count)
        for line, row in enumerate(lines)
        for rule, cell in zip(rules, row, strict=True)
        if cell != "-"
        for part, count in enumerate(cell.split("/"))
    ]


@pytest.mark.parametrize("source", TABLES)
def test_every_cell_of_the_count_tables(prepared: Prepared, source: str) -> None:
    published = cells(source)
    assert len(published) > 170
    tables: dict[str, NDArray[np.int64]] = {}
    for rule in {rule for rule, *_ in published}:
        found = row_counts(prepared.index, source, rule)
        tables[rule] = np.concatenate([found[:8], [found[:8].sum(axis=0), found[:7].sum(axis=0)], found[8:]])
    for rule, line, part, count in published:
        assert tables[rule][line, part] == int(count), (rule, line, part)
    np.testing.assert_array_equal(
        row_counts(prepared.index, source, "crossentropy"), row_counts(prepared.index, source, "probability")
    )


@pytest.mark.parametrize("rule", CANDIDATES)
def test_candidate_set_sizes(prepared: Prepared, rule: str) -> None:
    images, votes = row_votes(prepared.index, "label_csv")
    sizes = (decide(votes, rule).targets > 0).sum(axis=1)
    for part, expected in enumerate(CANDIDATES[rule]):
        here = np.bincount(sizes[(prepared.index["parts"][images] == part)], minlength=4)
        kept = row_counts(prepared.index, "label_csv", rule)[:8, part].sum()
        assert tuple(here[1:]) == expected and kept == sum(expected)


def test_unique_names_of_new_csv(prepared: Prepared) -> None:
    assert row_counts(prepared.index, "new_csv", "majority").sum(axis=0).tolist() == [28561, 3579, 3574]
    assert image_counts(prepared.index, "new_csv", "majority").sum(axis=0).tolist() == [28558, 3579, 3573]
    assert image_counts(prepared.index, "new_csv", "majority")[:8].sum(axis=0).tolist() == [25057, 3199, 3153]


def test_report(report: PreparedReport) -> None:
    assert report.images == 35710 and report.differences == () and len(report.label_files) == 4
    assert all(file.known for file in report.label_files)
    text = " ".join(report.notices)
    assert "173 rows name no image" in text and "fer0006953.png, fer0008403.png, fer0011785.png, fer0033120.png" in text
    assert "28,561/3,579/3,574 named rows, 28,558/3,579/3,573 images" in text
    assert "1,513 groups of pixel-identical images, 1,840 redundant images" in text
    assert "288 test and 279 valid images equal a train image" in text
    assert "232 of 3,136 test images" in text and "117 groups carry conflicting labels" in text
    assert "FER2013Test/fer0033120.png is a warning sign" in text


def same(data: FaceSet, indices: NDArray[np.int64]) -> set[bytes]:
    return {data.images[index].tobytes() for index in indices}


@pytest.mark.parametrize(
    "source, train_parts, test_images, leaked",
    [
        ("label_csv", "train", 3136, 232),
        ("new_csv", "train", 3152, 259),
        ("label_csv", "train+valid", 3136, 254),
        ("new_csv", "train+valid", 3152, 284),
    ],
)
def test_leaks_and_their_removal(
    prepared: Prepared, source: str, train_parts: str, test_images: int, leaked: int
) -> None:
    whole = open_ferplus(prepared.folder, source=source, train_parts=train_parts)
    known = same(whole, whole.train)
    assert len(whole.test) == test_images
    assert sum(whole.images[index].tobytes() in known for index in whole.test) == leaked
    clean = open_ferplus(prepared.folder, source=source, train_parts=train_parts, dedupe="cross")
    assert not same(clean, clean.train) & same(clean, clean.test)
    assert len(same(clean, clean.train)) == len(clean.train) and len(same(clean, clean.test)) == len(clean.test)
    assert same(clean, clean.test) == same(whole, whole.test)
    assert same(clean, clean.train) == known - same(whole, whole.test)


@pytest.mark.parametrize(
    "options, train, test",
    [
        ({"train_parts": "train+valid", "placeholder": "keep"}, 28236, 3137),
        ({"source": "new_csv", "rule": "argmax10", "test_parts": "valid+test", "placeholder": "keep"}, 28386, 7099),
        ({"source": "new_csv", "classes": 7}, 24938, 3136),
        ({"classes": 7}, 24925, 3121),
    ],
    ids=["LEAF's code", "SSFER: 28,389 rows and 7,099", "24,941 rows", "seven classes"],
)
def test_sizes_of_the_papers(report: PreparedReport, options: dict[str, str | int], train: int, test: int) -> None:
    data = open_dataset("ferplus", options, cache=Path(str(report.folder)).parent)
    assert (len(data.train), len(data.test)) == (train, test)
    assert data.labels[data.train].min() == 0 and data.labels.max() == len(data.classes) - 1


def test_the_two_files_differ(prepared: Prepared) -> None:
    """Other votes on 1,601 images, another majority on 377, of which both keep 119 with another class.

    By the first row of a repeated name; by the second, which calls fer0033120.png no face, both are one more.
    """
    one, other = (image_votes(prepared.index, source) for source in TABLES)
    parts = prepared.index["parts"][(one != other).any(axis=1)]
    assert np.bincount(parts).tolist() == [1073, 246, 282]
    kept_one, kept_other = (decide(votes, "majority").labels for votes in (one, other))
    changed = kept_one != kept_other
    assert changed.sum() == 377 and (changed & (kept_one < 8) & (kept_other < 8)).sum() == 119


def test_faces_are_found_and_tell_pairs_apart(report: PreparedReport, tmp_path: Path) -> None:
    """SSFER's kappa on a sample: boxes of most images, and not 0 for most pairs in the protocol's own views."""
    pytest.importorskip("cv2")
    faces = open_ferplus(Path(str(report.folder)))
    rows = faces.train[np.random.default_rng(1).choice(len(faces.train), 192, replace=False)]
    detector, boxes = load_detector("haar", close_up=True), np.full((len(faces.labels), 4), np.nan, np.float32)
    for row in rows:
        found = detector.find(to_rgb(np.asarray(faces.images[row, :, :, 0])))
        if found:
            boxes[row] = max(found, key=lambda face: face.area).box
    assert np.isfinite(boxes[rows]).all(axis=1).mean() > 0.75
    assert without_boxes(replace(faces, boxes=boxes), rows) is None
    recipe = view_recipe(load_protocol("ssfer").recipe("finetune", "cpu"))
    store, stream = ImageStore(replace(faces, boxes=boxes), torch.device("cpu")), Stream(rows, 32, 1, "labelled")
    batches = Batches(store, stream, None, Views(labelled=("weak",)), recipe, Share(), boxes=True)
    views = [labelled.boxes["weak"] for step in range(6) if (labelled := batches.labelled(step)).boxes]
    kappa = torch.cat([1 - facemix.iou(boxes, boxes.flip(0)) for boxes in views])
    assert kappa.mean() > 0.05 and (kappa > 0.02).float().mean() > 0.5


def test_the_default_options_are_the_ones_of_recorded_runs(report: PreparedReport) -> None:
    """Options added later must not change what old records say they were made from."""
    assert report.fingerprint == "8dfaedd05a36ca0a54121d8c2d89898563236798cec6c7540659a52d9b2d3ee0"
    assert report.pixels == PUBLISHED_PIXELS
    assert open_ferplus(Path(str(report.folder))).identity() == {"fingerprint": report.fingerprint}
