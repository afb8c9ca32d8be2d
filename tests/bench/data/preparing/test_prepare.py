"""From a listing to a prepared copy and its report: what is checked, stored, noted and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.preparing.cache import Prepared
from ferbench.bench.data.preparing.decode import Settings, decode_image
from ferbench.bench.data.preparing.listed import open_listed, prepare_listed
from ferbench.bench.data.preparing.prepare import prepare_listing
from ferbench.bench.data.reading.listing import DECODE_OPTIONS, Expected, Labelling, ListedSet, Listing, Options
from ferbench.bench.data.reading.report import PreparedReport
from ferbench.bench.data.reading.tree import walk_images
from ferbench.validation import Option

CLASSES = ("anger", "fear")
DEFAULTS: Options = {name: option.default for name, option in DECODE_OPTIONS.items()}


def picture(number: int, size: tuple[int, int] = (24, 24), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve pictures: the first eight in train, of which 0 and 5 are the same, the last in test, of which 11 is 2."""
    folder = tmp_path / "copy"
    for number in range(12):
        path = folder / ("train" if number < 8 else "test") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture({5: 0, 11: 2}.get(number, number)).save(path)
    return folder


def listing(root: Path, **changes: Any) -> Listing:
    ids = np.array(sorted(walk_images(root), key=lambda path: (not path.startswith("train"), path)))
    parts = np.array([0 if name.startswith("train") else 2 for name in ids], np.int8)
    labels = np.array([int(Path(name).stem.strip("x") or 0) % 2 for name in ids], np.int64)
    return replace(Listing("copies", root, "folders", ids, parts, labels, CLASSES), **changes)


def prepared(root: Path, partial: bool = False, options: Mapping[str, Any] | None = None, **changes: Any) -> Prepared:
    decoding = {**DEFAULTS, **(options or {})}
    return prepare_listing(listing(root, **changes), root.parent / "cache", decoding, partial=partial)


def dataset(scan: Callable[[Path, Options], Listing], **changes: Any) -> ListedSet:
    return replace(ListedSet("copies", "", "FERBENCH_COPIES_ROOT", scan, "ask us"), **changes)


def opened(root: Path, **options: Any) -> FaceSet:
    return open_listed(dataset(lambda at, _: listing(at)), options, root=root, cache=root.parent / "cache")


def report(
    root: Path, changed: Mapping[str, Any] | None = None, partial: bool = False, **options: Any
) -> PreparedReport:
    chosen = dataset(lambda at, _: listing(at, **(changed or {})))
    return prepare_listed(chosen, options, root=root, cache=root.parent / "cache", partial=partial)


def test_images_are_stored_as_they_are(root: Path) -> None:
    stored = prepared(root)
    assert stored.images.shape == (12, 24, 24, 3) and stored.meta["decoded"]["sizes"] == {"24x24 RGB": 12}
    for row, name in enumerate(stored.index["ids"]):
        np.testing.assert_array_equal(stored.images[row], np.asarray(Image.open(root / name)))
    assert sorted(path.name for path in stored.folder.iterdir()) == ["images.npy", "index.npz", "meta.json"]


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number in range(4):
        picture(number, mode="L").save(tmp_path / "train" / f"{number}.png")
    assert prepared(tmp_path).images.shape == (4, 24, 24, 1)
    assert prepared(tmp_path, options={"channels": "rgb"}).images.shape == (4, 24, 24, 3)


def test_other_sizes(root: Path) -> None:
    """Images of many sizes take the named size; one odd image among many is brought to the size of the others."""
    assert prepared(root, options={"size": 32}).images.shape == (12, 32, 32, 3)
    picture(1, (30, 24)).save(root / "train" / "01.png")
    stored = prepared(root)
    assert stored.images.shape[1:] == (224, 224, 3) and stored.meta["decoded"]["sizes"] == {
        "24x24 RGB": 11,
        "30x24 RGB": 1,
    }


def test_one_odd_image_among_many(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number in range(150):
        picture(number, (20, 20) if number else (20, 23)).save(tmp_path / "train" / f"{number:03d}.png")
    stored = prepared(tmp_path)
    assert stored.images.shape == (150, 20, 20, 3)
    assert "1 images are not 20 x 20: resized (square)" in stored.meta["decoded"]["notes"]


@pytest.mark.parametrize("mode", ["square", "pad", "centre_crop"])
def test_boxes_and_landmarks_follow_their_image(root: Path, mode: str) -> None:
    boxes = np.tile(np.array([4, 6, 16, 22], np.float32), (12, 1))
    boxes[3] = np.nan
    points = np.tile(np.array([[6, 8], [12, 8], [9, 12], [7, 18], [11, 18]], np.float32), (12, 1, 1))
    options = {"size": 48, "crop": "box", "resize": mode}
    stored = prepared(root, boxes=boxes, landmarks=points, options=options)
    expected = decode_image((root / "train/00.png").read_bytes(), Settings(48, 3, "box", mode, 0.0), boxes[0])
    np.testing.assert_array_equal(stored.images[0], expected.pixels)
    wanted = expected.matrix[:, :2] @ [4, 6] + expected.matrix[:, 2]
    np.testing.assert_allclose(stored.index["boxes"][0, :2], wanted.clip(0, 48), atol=1e-4)
    nose = expected.matrix[:, :2] @ [9, 12] + expected.matrix[:, 2]
    np.testing.assert_allclose(stored.index["landmarks"][0, 2], nose, atol=1e-3)
    assert np.isnan(stored.index["boxes"][3]).all() and stored.meta["decoded"]["form"][
        "default boxes"
    ] == pytest.approx(1 / 12)


def test_crop_auto_cuts_only_what_is_not_cut(root: Path) -> None:
    boxes = np.tile(np.array([4, 4, 16, 16], np.float32), (12, 1))
    assert prepared(root, boxes=boxes).meta["decoded"]["form"]["crop"] == "none"
    assert prepared(root, boxes=boxes, uncropped=True).meta["decoded"]["form"]["crop"] == "box"
    assert "are not cropped" in prepared(root, uncropped=True).meta["decoded"]["warnings"][0]


def test_align(root: Path) -> None:
    points = np.tile(np.array([[6, 8], [16, 8], [11, 12], [7, 18], [15, 18]], np.float32), (12, 1, 1))
    stored = prepared(root, landmarks=points, options={"crop": "align", "size": 56})
    expected = decode_image(
        (root / "train/00.png").read_bytes(), Settings(56, 3, "align", "square", 0.0), None, points[0]
    )
    np.testing.assert_array_equal(stored.images[0], expected.pixels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "option 'size' for copies must be 0 or 16 to 512, not 8"),
        ({"size": 4096}, "option 'size' for copies must be 0 or 16 to 512, not 4096"),
        ({"margin": -1}, "option 'margin' for copies must be from 0 to 200, not -1"),
        ({"crop": "box"}, "crop=box, but this copy (folders) has no boxes; see option faces"),
        ({"crop": "align"}, "crop=align needs landmarks, and faces=dataset gives none"),
        ({"crop": "box", "faces": "none"}, "option 'crop'=box for copies needs boxes: faces=none gives none"),
        ({"faces": "csv"}, "faces=csv: no "),
    ],
)
def test_options_that_do_not_fit(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        prepared(root, options=options)
    assert message in str(error.value)


def damage_text(root: Path) -> None:
    (root / "train/03.png").write_text("<html>")


def damage_empty(root: Path) -> None:
    (root / "train/03.png").write_bytes(b"")


def damage_bomb(root: Path) -> None:
    Image.new("1", (11_000, 9_000)).save(root / "train/03.png")


def damage_deep(root: Path) -> None:
    Image.fromarray(np.zeros((24, 24), np.uint16)).save(root / "train/03.png")


@pytest.mark.parametrize(
    ("damage", "message", "kept"),
    [
        (damage_text, "1 x unreadable image: train/03.png (not an image)", 12),
        (damage_empty, "1 x zero-byte image of train: train/03.png", 11),
        (damage_bomb, "train/03.png (11000 x 9000 pixels, more than ferbench decodes)", 12),
        (damage_deep, "train/03.png (mode I;16, not 8 bits a channel)", 12),
    ],
)
def test_damaged_images(root: Path, damage: Callable[[Path], None], message: str, kept: int) -> None:
    """Refused, then with --partial neither trained nor tested on; the rest keeps its pixels and order."""
    damage(root)
    with pytest.raises(DataError) as error:
        report(root)
    assert message in str(error.value) and "accept this copy with --partial" in str(error.value)
    found = report(root, partial=True)
    assert found.images == kept and found.train == 7 and found.test == 4
    assert message in found.differences[0]
    data = opened(root)
    assert "train/03.png" not in data.ids[data.train]
    for row in data.train:
        np.testing.assert_array_equal(data.images[row], np.asarray(Image.open(root / data.ids[row])))
    if kept == 12:
        assert found.unreadable[0].startswith("train/03.png (")


def test_missing_images(root: Path) -> None:
    whole = listing(root)
    for name in ("train/02.png", "test/09.png"):
        (root / name).unlink()
    chosen = dataset(lambda at, _: replace(whole, root=at))
    with pytest.raises(DataError, match="1 x missing image of train: train/02.png; 1 x missing image of test"):
        prepare_listed(chosen, {}, root=root, cache=root.parent / "cache")
    found = prepare_listed(chosen, {}, root=root, cache=root.parent / "cache", partial=True)
    assert (found.images, found.train, found.test) == (10, 7, 3)


def test_nothing_is_there(root: Path, tmp_path: Path) -> None:
    whole = listing(root)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="none of the 12 listed images is there"):
        prepare_listing(replace(whole, root=empty), tmp_path / "cache", DEFAULTS, partial=True)


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "train/../../x.png", "C:\\x.png", "a/..//b.png", "a\nb.png"]
)
def test_paths_cannot_leave_the_root(root: Path, path: str) -> None:
    whole = listing(root)
    paths = whole.ids.astype("<U40")
    paths[4] = path
    with pytest.raises(DataError, match="is not a path inside the data set's folder"):
        prepare_listing(replace(whole, paths=paths), root.parent / "cache", DEFAULTS)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_cannot_leave_the_root(root: Path, tmp_path: Path, what: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    picture(99).save(secret / "x99.png")
    if what == "file":
        (root / "train/x00.png").symlink_to(secret / "x99.png")
        name = "train/x00.png"
    else:
        (root / "train/more").symlink_to(secret)
        name = "train/more/x99.png"
    whole = listing(root)
    ids = np.append(np.setdiff1d(whole.ids, [name]), name)
    linked = replace(whole, ids=ids, parts=np.zeros(13, np.int8), labels=np.zeros(13, np.int64))
    with pytest.raises(DataError, match=f"is a link to {secret}.*, outside {root}"):
        prepare_listing(linked, tmp_path / "cache", DEFAULTS)


def test_links_inside_the_root_are_fine(root: Path, tmp_path: Path) -> None:
    (root / "train/07.png").unlink()
    (root / "train/07.png").symlink_to("06.png")
    link = tmp_path / "link"
    link.symlink_to(root)
    stored = prepare_listing(replace(listing(root), root=link), tmp_path / "cache", DEFAULTS)
    np.testing.assert_array_equal(stored.images[6], stored.images[7])


def test_a_folder_where_an_image_should_be(root: Path) -> None:
    (root / "train/02.png").unlink()
    whole = listing(root)
    (root / "train/02.png").mkdir()
    names = np.sort(np.append(whole.ids, "train/02.png"))
    odd = replace(whole, ids=names, parts=np.zeros(12, np.int8), labels=np.zeros(12, np.int64))
    with pytest.raises(DataError, match="train/02.png is not a file, but an image is listed there"):
        prepare_listing(odd, root.parent / "cache", DEFAULTS)


EXPECTED = {"anger": (4, None, 2), "fear": (4, None, 2)}


def test_counts(root: Path) -> None:
    """Measured counts refuse, hearsay warns, a known other number is explained, and swapped classes are named."""
    assert report(root, {"expected": (Expected(EXPECTED, True, "the paper"),)}).differences == ()
    wrong = {"anger": (5, None, 2), "fear": (4, None, 2)}
    with pytest.raises(DataError, match="train anger: 4 images, the paper says 5"):
        report(root, {"expected": (Expected(wrong, True, "the paper"),)})
    warned = report(root, {"expected": (Expected(wrong, False, "a blog"),)})
    assert warned.warnings == ("train anger: 4 images, a blog says 5",) and warned.differences == ()
    assert "WARNING: train anger: 4 images" in warned.text()
    known = {("anger", "train", 4): "one is lost in every copy"}
    explained = report(root, {"expected": (Expected(wrong, True, "the paper", known),)})
    assert "train anger: 4 images, the paper says 5: one is lost in every copy" in explained.notices


def test_swapped_classes_are_named(root: Path) -> None:
    labels = listing(root).labels.copy()
    labels[1] = 0  # 5 and 3 in train
    swapped = Expected({"anger": (3, None, 2), "fear": (5, None, 2)}, True, "the paper")
    with pytest.raises(DataError, match=r"classes in another order\?"):
        report(root, {"labels": labels, "expected": (swapped,)})


def test_report(root: Path) -> None:
    subjects = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, -1])
    found = report(root, {"subjects": subjects, "warnings": ("hm",), "notes": ("ah",)}, size=32)
    text = found.text()
    assert "classes: 0=anger 1=fear" in text
    assert "2 groups of pixel-identical images, 2 redundant images; 1 in both train and test; 2 groups carry" in text
    assert "under these options 1 of 4 test images are in the training set pixel by pixel (dedupe=cross" in text
    assert "1 of 2 people in the test set are in the training set as well" in text
    assert "files: 24x24 RGB 12" in text and "stored: size 32, channels 3, crop none" in text
    assert f"fingerprint {opened(root, size=32).fingerprint}" in text
    plain = json.loads(json.dumps(found.json()))
    assert (
        plain["sizes"] == {"24x24 RGB": 12}
        and plain["decoding"]["colour order"] == "rgb"
        and plain["warnings"] == ["hm"]
    )


@pytest.mark.parametrize(
    ("options", "train", "test"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11]),
        ({"dedupe": "within"}, [0, 1, 2, 3, 4, 6, 7], [8, 9, 10, 11]),
        ({"dedupe": "cross"}, [0, 1, 3, 4, 6, 7], [8, 9, 10, 11]),
        ({"train_parts": "test", "test_parts": "train"}, [8, 9, 10, 11], [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
    ids=str,
)
def test_open_options(root: Path, options: dict[str, str], train: list[int], test: list[int]) -> None:
    data = opened(root, **options)
    assert data.train.tolist() == train and data.test.tolist() == test


def test_overlapping_parts(root: Path) -> None:
    with pytest.raises(DataError, match=r"train_parts=train and test_parts=train\+valid overlap"):
        opened(root, test_parts="train+valid")


def test_options_are_part_of_the_identity(root: Path) -> None:
    prints = {opened(root, **options).fingerprint for options in ({}, {"size": 32}, {"dedupe": "cross"})}
    assert len(prints) == 3 and opened(root).options["size"] == 0


def test_a_set_without_labels_is_there_to_train_on(root: Path) -> None:
    bare = replace(listing(root), classes=(), labels=np.full(12, -1))
    data = open_listed(dataset(lambda at, _: bare), {}, root=root, cache=root.parent / "cache")
    assert data.classes == () and len(data.train) == 8


def test_relabel(root: Path) -> None:
    def relabel(labelling: Labelling, columns: Mapping[str, Any], options: Options) -> Labelling:
        assert set(columns) == {"age", "ids"}
        return replace(
            labelling, classes=("young", "old"), labels=(columns["age"] > int(options["limit"])).astype(np.int64)
        )

    ages = np.arange(12)
    chosen = dataset(
        lambda at, _: listing(at, columns={"age": ages}), open_options={"limit": Option(3, "years")}, relabel=relabel
    )
    data = open_listed(chosen, {"limit": 9}, root=root, cache=root.parent / "cache")
    assert data.classes == ("young", "old") and data.labels.tolist() == [0] * 10 + [1, 1]


def test_only_some_classes() -> None:
    votes = np.eye(3, dtype=np.float32)
    whole = Labelling(("a", "b", "c"), np.array([0, 1, 2, -1]), np.zeros(4, np.int8), votes)
    some = whole.only(("c", "a"))
    assert some.labels.tolist() == [1, -1, 0, -1] and some.votes is not None and some.votes[0].tolist() == [0.0, 1.0]


def test_records_instead_of_files(tmp_path: Path) -> None:
    """A reader may hand out bytes or pixels itself; after --partial it is still asked for the right ones."""
    (tmp_path / "box").write_bytes(b"anything")
    arrays = [np.full((16, 16, 3), 10 * number, np.uint8) for number in range(4)]
    names = np.array(["a", "b", "c", "d"])
    bare = Listing(
        "records", tmp_path, "records", names, np.zeros(4, np.int8), np.zeros(4, np.int64), ("x",),
        read=lambda row: arrays[row], containers=(tmp_path / "box",),
    )  # fmt: skip
    assert prepare_listing(bare, tmp_path / "cache", DEFAULTS).images[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    some = bare.take(np.array([3, 1]))
    assert prepare_listing(some, tmp_path / "cache", DEFAULTS).images[:, 0, 0, 0].tolist() == [30, 10]


def test_open_without_a_root(root: Path, tmp_path: Path) -> None:
    """The copy prepared last is opened; under other options it is made from the same files; else a clear error."""
    chosen = dataset(lambda at, _: listing(at))
    with pytest.raises(DataError, match="copies is not prepared: run `ferbench prepare copies --root PATH`"):
        open_listed(chosen, {}, root=None, cache=tmp_path / "cache")
    report(root)
    assert open_listed(chosen, {}, root=None, cache=tmp_path / "cache").images.shape[1] == 24
    assert open_listed(chosen, {"size": 32}, root=None, cache=tmp_path / "cache").images.shape[1] == 32
    assert open_listed(chosen, {}, root=None, cache=tmp_path / "cache").images.shape[1] == 24


def test_no_such_root(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=f"no such folder: {tmp_path}/none; --root must name the folder that holds copies"
    ):
        report(tmp_path / "none")


def test_a_changed_file_is_decoded_again(root: Path) -> None:
    report(root)
    picture(77).save(root / "train/04.png")
    again = report(root)
    assert not again.cached
    np.testing.assert_array_equal(opened(root).images[4], np.asarray(picture(77)))
    assert report(root).cached


def test_an_image_listed_twice(root: Path) -> None:
    twice = listing(root).ids.copy()
    twice[3] = twice[2]
    with pytest.raises(DataError, match="1 images are listed more than once, first 'train/02.png'"):
        listing(root, ids=twice)


def test_an_empty_listing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="copies: no images in"):
        listing(tmp_path)
