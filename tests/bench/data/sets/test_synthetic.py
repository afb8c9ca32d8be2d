"""Synthetic faces: the same everywhere, ambiguous where faces are, each action unit to be seen, sized like RAF-DB."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.sets.synthetic.canvas import cos_sin
from ferbench.bench.data.sets.synthetic.expressions import CLASSES, PROTOTYPES, UNITS, annotate
from ferbench.bench.data.sets.synthetic.people import IDENTITY, SCENE, draw
from ferbench.bench.data.sets.synthetic.reader import Faces, class_sizes, generate
from ferbench.bench.data.sets.synthetic.render import boxes, render


@pytest.fixture(scope="module")
def faces() -> Faces:
    return generate([150] * 8, seed=5)


def scene(total: int, **fixed: float) -> dict[str, NDArray[np.float64]]:
    """Parameters of `total` relaxed faces, with some set by hand."""
    rng = np.random.default_rng(2)
    found = draw(IDENTITY, rng, total) | draw(SCENE, rng, total) | {unit: np.zeros(total) for unit in UNITS}
    return found | {name: np.full(total, value) for name, value in fixed.items()}


def digest(found: Faces) -> str:
    arrays = (found.images, found.labels.astype("<i8"), found.votes.astype("<f4"), found.boxes.astype("<f4"))
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_same_bytes_on_every_machine() -> None:
    assert (
        digest(generate([3, 4, 2, 2, 1, 2, 1], seed=11))
        == "d71a7cd5a1114bde4efc722896f57cfb7db98acdffa187e819b425e67f73aced"
    )


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_change_nothing(threads: int) -> None:
    assert digest(generate([20] * 7, size=24, threads=threads)) == digest(generate([20] * 7, size=24))


@pytest.mark.parametrize("other", [{"seed": 1}, {"part": 1}])
def test_seed_and_part_draw_other_faces(other: dict[str, int]) -> None:
    assert not np.array_equal(generate([9] * 7, **other).images, generate([9] * 7).images)


@pytest.mark.parametrize("size", [16, 33, 48, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_size_and_channels(size: int, channels: int) -> None:
    found = generate([2] * 7, size=size, channels=channels)
    assert found.images.shape == (14, size, size, channels) and found.images.dtype == np.uint8


def test_grey_is_the_luma_of_rgb() -> None:
    grey, rgb = (generate([3] * 7, size=32, channels=channels).images.astype(float) for channels in (1, 3))
    luma = (rgb @ np.array([0.299, 0.587, 0.114]))[..., None]
    inside = (rgb.min(axis=3, keepdims=True) > 0) & (rgb.max(axis=3, keepdims=True) < 255)  # not clipped
    assert np.abs(luma - grey)[inside].max() <= 1


def test_images_use_the_grey_range(faces: Faces) -> None:
    assert faces.images.min() < 5 and faces.images.max() > 250
    spread = faces.images.reshape(len(faces.images), -1).std(axis=1)
    assert np.quantile(spread, 0.01) > 10  # no face is nearly flat
    assert 70 < faces.images.mean() < 150


@pytest.mark.parametrize(
    ("scale", "train", "test"),
    [
        (1.0, [2524, 4772, 1290, 1982, 705, 717, 281], [680, 1185, 329, 478, 162, 160, 74]),
        (0.5, [1262, 2386, 645, 991, 353, 359, 141], [340, 593, 165, 239, 81, 80, 37]),
        (0.35, [883, 1670, 451, 694, 247, 251, 98], [238, 415, 115, 167, 57, 56, 26]),
        (0.001, [3, 5, 1, 2, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_class_sizes(scale: float, train: list[int], test: list[int]) -> None:
    assert class_sizes(scale) == (train, test)
    assert class_sizes(scale, 8)[0][:7] == train and class_sizes(1, 8)[0][7] == 120


@pytest.mark.parametrize("counts", [[0, 5, 0, 0, 0, 0, 0], [1, 200, 1, 1, 1, 1, 1, 1], [4, 4]])
def test_labels_come_in_the_sizes_asked_for(counts: list[int]) -> None:
    assert np.bincount(generate(counts, size=16).labels, minlength=len(counts)).tolist() == counts


def test_label_is_the_majority_and_mostly_the_truth(faces: Faces) -> None:
    assert (faces.votes.sum(axis=1) == 10).all() and (faces.votes >= 0).all()
    for row, votes in enumerate(faces.votes.tolist()):
        assert faces.labels[row] == votes.index(max(votes))  # list.index: the first on a tie
    right = faces.labels == faces.truth
    assert 0.80 < right.mean() < 0.97  # some labels are wrong, as people's are
    share_of_truth = faces.votes[np.arange(len(right)), faces.truth] / 10
    assert share_of_truth.mean() > 0.6
    assert share_of_truth[right].mean() > 2 * share_of_truth[~right].mean()


def test_votes_divide_as_expressions_fade(faces: Faces) -> None:
    shown = faces.truth != CLASSES.index("neutral")
    strongest = faces.votes[shown].max(axis=1)
    thirds = np.array_split(np.argsort(faces.intensity[shown]), 3)
    weak, middle, strong = (strongest[rows].mean() for rows in thirds)
    assert weak + 0.5 < middle < strong
    neutral = faces.votes[shown, CLASSES.index("neutral")]
    assert neutral[thirds[0]].mean() > 10 * neutral[thirds[2]].mean()


@pytest.mark.parametrize(("name", "rival"), [("fear", "surprise"), ("disgust", "anger"), ("sadness", "neutral")])
def test_confusions_are_the_known_ones(faces: Faces, name: str, rival: str) -> None:
    votes = faces.votes[faces.truth == CLASSES.index(name)].mean(axis=0)
    order = [CLASSES[k] for k in np.argsort(-votes)]
    assert order[0] == name and rival in order[1:3]


@pytest.mark.parametrize("intensity", [0.6, 1.0])
def test_annotators_without_error_name_every_prototype(intensity: float) -> None:
    for form in range(2):
        votes = annotate(intensity * PROTOTYPES[:, form], np.zeros((8, 10, len(UNITS))), 8)
        assert np.argmax(votes, axis=1).tolist() == list(range(8)) and (votes.max(axis=1) == 10).all()


def test_nearest_prototype_against_a_search_over_intensities() -> None:
    rng = np.random.default_rng(0)
    units, errors = rng.random((20, len(UNITS))), rng.normal(0, 0.2, (20, 10, len(UNITS)))
    grid = np.linspace(0.55, 1.2, 400)[:, None]
    votes = np.zeros((20, 7))
    for face in range(20):
        for annotator in range(10):
            seen = units[face] + errors[face, annotator]
            fits = [min(((seen - grid * form) ** 2).sum(axis=1).min() for form in PROTOTYPES[k]) for k in range(7)]
            votes[face, fits.index(min(fits))] += 1
    assert np.abs(annotate(units, errors, 7) - votes).sum() <= 2  # the grid may miss one near tie


def test_boxes_hold_the_face() -> None:
    total, size = 60, 96
    still = scene(total, patch=0.0, grain=0.0, blur=0.0, glasses=0.0, offset=0.0)
    other = still | {
        "iris": 0.5 - still["iris"], "lip_tone": 1.4 - still["lip_tone"], "brow_thickness": still["brow_thickness"] * 2,
        "beard": np.where(still["beard"] > 0.1, 0.0, 0.5),
    }  # fmt: skip
    grain = np.zeros((total, size, size), np.float32)
    changed = render(still, grain)[..., 0] != render(other, grain)[..., 0]
    for box, mask in zip(boxes(still, size), changed, strict=True):
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        edge = 1.5  # pixels: edges are soft
        assert box[0] - edge <= columns[0] and columns[-1] + 1 <= box[2] + edge
        assert box[1] - edge <= rows[0] and rows[-1] + 1 <= box[3] + edge
        assert rows[-1] - rows[0] > 0.55 * (box[3] - box[1]) and columns[-1] - columns[0] > 0.6 * (box[2] - box[0])


def test_boxes_lie_in_the_image(faces: Faces) -> None:
    assert (faces.boxes >= 0).all() and (faces.boxes <= 48).all() and faces.boxes.dtype == np.float32
    sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
    assert (sides > 24).all()


def test_upright_box_is_the_ellipse_of_the_face() -> None:
    upright = scene(1, roll=0.0, scale=0.8, shift_x=0.05, shift_y=0.0, face_width=0.7)
    np.testing.assert_allclose(boxes(upright, 100), [[24.5, 10.0, 80.5, 90.0]], atol=1e-4)


@pytest.mark.parametrize("degrees", [-40.0, 0.0, 13.0])
def test_half_angle_rotation(degrees: float) -> None:
    angle = np.radians(degrees)
    cos, sin = cos_sin(np.tan(angle / 2))
    assert cos == pytest.approx(np.cos(angle)) and sin == pytest.approx(np.sin(angle))


@pytest.mark.parametrize("unit", UNITS)
def test_every_action_unit_shows(unit: str) -> None:
    relaxed = scene(1, patch=0.0, glasses=0.0, beard=0.0, blur=0.0, skin=0.8, gain=1.0, age=0.0)
    grain = np.zeros((1, 48, 48), np.float32)
    moved = relaxed | {unit: np.ones(1)}
    difference = np.abs(render(moved, grain).astype(int) - render(relaxed, grain).astype(int))
    assert (difference > 20).sum() >= 8  # at 48 pixels, enough of them change enough to be seen


def test_subjects_appear_again_and_again(faces: Faces) -> None:
    people, images = np.unique(faces.subjects, return_counts=True)
    assert len(people) > 0.9 * 1200 / 12 and images.mean() < 14


@pytest.mark.parametrize("counts", [[], [5], [0] * 7, [1, -1, 3], [1] * 9], ids=str)
def test_bad_counts(counts: list[int]) -> None:
    with pytest.raises(DataError, match="counts cannot be"):
        generate(counts)


def test_bad_channels() -> None:
    with pytest.raises(DataError, match="channels cannot be 2"):
        generate([1] * 7, channels=2)
