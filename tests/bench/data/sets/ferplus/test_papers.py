"""SSFER's and PLL-FER's FERPlus: sizes, splits and lengths on the real copy. Needs FERBENCH_FERPLUS_ROOT."""

from __future__ import annotations

import os

import pytest

from ferbench.bench.data.preparing.cache import cache_root
from ferbench.bench.data.preparing.faces.face_boxes import Faces
from ferbench.bench.data.sets.ferplus import reader as ferplus
from ferbench.bench.tables.runs import Workspace, resolve_cell
from ferbench.protocols import select

pytestmark = pytest.mark.skipif(
    not os.environ.get("FERBENCH_FERPLUS_ROOT"), reason="FERBENCH_FERPLUS_ROOT names no copy of FERPlus"
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("results"), cache_root())


@pytest.fixture(autouse=True)
def without_looking_for_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No split depends on them, and a detector takes minutes where nobody has used this data set before."""
    monkeypatch.setattr(ferplus, "ferplus_faces", lambda stored, faces, progress: Faces(None, None, "none"))


@pytest.mark.parametrize(("share", "labels", "steps"), [("5", 1419, 421), ("10", 2839, 399), ("25", 7097, 332)])
def test_ssfers_splits(workspace: Workspace, share: str, labels: int, steps: int) -> None:
    """Both stages on the same labels; 50 passes over the unlabelled images in batches of 64."""
    (cell,) = select(f"ssfer/10/ssfer/ferplus-{share}")
    run = resolve_cell(cell, "cpu", 1, workspace)
    assert run.before is not None and run.before.split.fingerprint == run.split.fingerprint
    assert abs(len(run.split.labelled) - labels) <= 2  # of 28,386 images instead of 28,389 rows
    assert (len(run.faces.train), len(run.test)) == (28_386, 7_099)
    counts = run.faces.class_counts(run.faces.train)
    assert (counts["contempt"], counts["disgust"]) == (165, 191)  # Section 4.3
    assert len(run.split.unlabelled) // 64 == steps
    for name, images in counts.items():
        assert run.split.requested[name] == max(1, round(int(share) / 100 * images))


def test_the_notebooks_accuracies_are_fractions_of_this_test_set(workspace: Workspace) -> None:
    """5,817, 5,956 and 6,092 of 7,099, which Table 16 prints rounded or cut."""
    (cell,) = select("ssfer/16/ssfer-gwo/ferplus-5")
    images = len(resolve_cell(cell, "cpu", 1, workspace).test)
    for column, right in (("ferplus-5", 5_817), ("ferplus-10", 5_956), ("ferplus-25", 6_092)):
        published = select(f"ssfer/16/ssfer-gwo/{column}")[0].published("overall")
        assert published is not None and 100 * right / images == pytest.approx(published.mean, abs=0.01)


def test_folds_share_the_training_set_out(workspace: Workspace) -> None:
    tested = []
    for fold in range(1, 6):
        (cell,) = select(f"ssfer/5/ssfer-10/ferplus-fold{fold}")
        run = resolve_cell(cell, "cpu", 1, workspace)
        tested += run.test.tolist()
        kept = 28_386 - len(run.test)
        assert abs(len(run.split.labelled) - 0.1 * kept) <= 4
        assert not set(run.test.tolist()) & {*run.split.labelled.tolist(), *run.split.unlabelled.tolist()}
    assert sorted(tested) == run.faces.train.tolist()


def test_noise_spoils_its_share_of_the_labels(workspace: Workspace) -> None:
    (cell,) = select("ssfer/8/ssfer-10/ferplus-noise20")
    (clean,) = select("ssfer/8/ssfer-10/ferplus-noise0")
    noisy, right = resolve_cell(cell, "cpu", 1, workspace), resolve_cell(clean, "cpu", 1, workspace)
    labelled = noisy.split.labelled
    assert labelled.tolist() == right.split.labelled.tolist()
    wrong = (noisy.faces.labels[labelled] != right.faces.labels[labelled]).mean()
    assert wrong == pytest.approx(0.2, abs=0.001)
    assert (noisy.test_faces.labels[noisy.test] == right.test_faces.labels[right.test]).all()


def test_pll_trains_on_every_vote_and_tests_on_majorities(workspace: Workspace) -> None:
    (cell,) = select("pll/ferplus/all/ferplus")
    run = resolve_cell(cell, "cpu", 1, workspace)
    assert len(run.split.labelled) == 28_556 and not len(run.split.unlabelled)
    assert len(run.test) == 3_136  # 3,137 less the warning sign
    assert run.test_faces.class_counts(run.test)["contempt"] == 15  # Section IV-E8
    assert run.candidates is not None
    sizes = run.candidates()[run.split.labelled].sum(axis=1)
    assert sizes.min() == 1 and (sizes >= 2).mean() == pytest.approx(7_124 / 28_556, abs=0.01)  # two or three classes
