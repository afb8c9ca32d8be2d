"""What lies in the user's folder and is not used is told; a class or a part that would be lost is refused."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.cache import cache_root
from ferbench.bench.data.reading.account import Tree, account, look
from ferbench.bench.data.reading.report import PreparedReport
from ferbench.bench.data.sets.fake import save_face
from ferbench.bench.data.sets.fakes import FAKES
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

FakeCopy = Callable[..., Path]
WORDS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry")


def folders(
    root: Path, words: tuple[str, ...] = WORDS, suffix: str = ".jpg", size: tuple[int, int] = (48, 48), **parts: int
) -> Path:
    """Class folders in parts: folders(root, train=6, val=3)."""
    for first, (part, each) in enumerate(parts.items()):
        for label, word in enumerate(words):
            for number in range(each):
                save_face(root / part / word / f"{part}_{number}{suffix}", label, number + 100 * first, size)
    return root


def prepared(dataset: str, root: Path, partial: bool = True, **options: Any) -> PreparedReport:
    return prepare_dataset(dataset, options, root=root, cache=root.parent / "cache", partial=partial)


def parts_of(report: PreparedReport) -> list[int]:
    return [sum(row.found[part] for row in report.counts) for part in range(3)]


@pytest.mark.parametrize("dataset", ["fer2013", "rafdb", "folder", "affectnet7"])
@pytest.mark.parametrize("word", ["val", "Validation", "dev", "PublicTest"])
def test_a_third_part_is_a_part(tmp_path: Path, dataset: str, word: str) -> None:
    """All readers know the same words; nothing claims that two test parts are one where they are not."""
    report = prepared(dataset, folders(tmp_path / "copy", train=6, test=2, **{word: 3}))
    assert parts_of(report) == [42, 21, 14]
    assert "one test part" not in report.text()


def test_a_validation_part_alone_tests_rafdb(tmp_path: Path) -> None:
    assert parts_of(prepared("rafdb", folders(tmp_path / "copy", train=2, val=1))) == [14, 0, 7]


def test_letter_case_makes_no_second_class(tmp_path: Path) -> None:
    """Happy/ in train and happy/ in test, beside a class that is no expression."""
    root = folders(tmp_path / "copy", ("Happy", "Sad", "Calm"), train=3)
    folders(root, ("happy", "sad", "calm"), test=2)
    report = prepared("folder", root, partial=False)
    assert report.classes == ("Calm", "Happy", "Sad") and parts_of(report) == [9, 0, 6]


def test_two_folders_of_one_part_are_refused(tmp_path: Path) -> None:
    root = folders(tmp_path / "copy", train=2, test=1, val=1, dev=1)
    with pytest.raises(DataError, match="folders 'dev' and 'val' are both the valid part|'val' and 'dev' are both"):
        prepared("folder", root)


@pytest.mark.parametrize("dataset", ["fer2013", "rafdb", "affectnet7"])
def test_a_misspelt_class_is_refused_and_named(tmp_path: Path, dataset: str) -> None:
    words = tuple({"surprise": "suprise", "angry": "Angray"}.get(word, word) for word in WORDS)
    root = folders(tmp_path / "copy", words, train=6, test=2)
    lost = (
        "left out: test/Angray/ 2 images (is anger meant?), test/suprise/ 2 images (is surprise meant?), train/Angray/"
    )
    with pytest.raises(DataError, match="is not the published"):
        prepared(dataset, root, partial=False)
    assert any(line.startswith(lost) for line in prepared(dataset, root).differences)


def test_a_class_in_a_format_that_is_not_read_is_refused(tmp_path: Path) -> None:
    root = folders(tmp_path / "copy", train=3, test=1)
    for path in (root / "train" / "angry").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"copy is not whole: left out: train/angry/ 3 x \.heic: mend the folder, or"):
        prepared("folder", root, partial=False)


def test_jpegs_by_other_names_are_read_and_single_files_are_told_of(tmp_path: Path) -> None:
    """.jfif is what one browser calls a JPEG; .gif files beside others are named, not refused."""
    root = folders(tmp_path / "copy", train=6, test=2)
    for path in root.rglob("angry/*.jpg"):
        path.rename(path.with_suffix(".jfif"))
    for path in sorted((root / "train" / "sad").glob("*.jpg"))[:2]:
        with Image.open(path) as image:
            image.save(path.with_suffix(".gif"))
        path.unlink()
    report = prepared("folder", root, partial=False)
    assert report.images == 54 and report.counts[6].found == (6, 0, 2)
    assert "left out: train/sad/ 2 x .gif" in report.notices


def test_a_list_says_what_counts(tmp_path: Path) -> None:
    """Images that a table does not list are told of, whatever their folder is called."""
    root = folders(tmp_path / "copy", WORDS[:2], train=3, test=2)
    lines = [f"train/{word}/train_{number}.jpg,{word}" for word in WORDS[:2] for number in range(2)]
    (root / "labels.csv").write_text("\n".join(lines))
    report = prepared("csv", root, partial=False)
    assert "left out: test/ 4 images, train/happy/ 1 images, train/neutral/ 1 images" in report.notices


def test_what_is_left_out_on_purpose_has_its_reason(fake_copy: FakeCopy) -> None:
    assert any("(images=original takes them)" in line for line in prepared("rafdb", fake_copy("rafdb")).notices)
    frames = [line for line in prepared("ckplus", fake_copy("ckplus")).notices if "first and last frames" in line]
    assert frames and frames[0].startswith("left out: ")


def test_links_are_named(tmp_path: Path) -> None:
    root = folders(tmp_path / "copy", WORDS[:2], train=2, test=1)
    (root / "train" / "happy" / "more").symlink_to(root / "test" / "happy")
    notes = prepared("folder", root, partial=False).notices
    assert "left out: 1 folders that are links, which are not entered: train/happy/more" in notes


def test_no_copy_is_refused_for_what_belongs_to_it(fake_copy: FakeCopy) -> None:
    """Every layout of every set that is not refused as a whole: nothing is called lost."""
    seen = 0
    for dataset, layouts in FAKES.items():
        for layout in layouts:
            with suppress(DataError):
                report = prepared(dataset, fake_copy(dataset, layout))
                assert not [line for line in report.differences if line.startswith("left out")], (dataset, layout)
                seen += 1
    assert seen > 20


def test_the_account_of_a_drawn_tree() -> None:
    """Topmost folders, classes among classes, parts by name, single files, purposes, slips, and a long list cut."""
    tree = Tree({
        "train/a": ["1.png", "2.png", "x.heic"], "train/b": ["1.png"], "train/c/deep": ["1.png", "2.png"],
        "evaluation/a": ["1.png"], "docs/figures": ["plot.png"], "spare": ["1.png"],
    })  # fmt: skip
    used = {"train/a/1.png", "train/a/2.png", "train/b/1.png"}
    differences, notes = account(tree, used, {"spare": "as asked"}, by_folder=True)
    assert differences == ["left out: evaluation/ 1 images, train/c/ 2 images"]
    assert notes == ["left out: 1 images (as asked)", "left out: docs/ 1 images, train/a/ 1 x .heic"]
    assert account(tree, used, {}, by_folder=False)[0] == []
    many = Tree({f"class{number}": ["1.png"] for number in range(9)})
    (line,) = account(many, {"class0/1.png"}, {}, by_folder=True)[0]
    assert line.endswith("class6/ 1 images, and 2 more folders with 2 images") and line.count("images") == 7


def test_nothing_hidden_is_looked_at(tmp_path: Path) -> None:
    for name in (".git/a.png", "__MACOSX/a.png", "x/._a.png", "x/a.png", "x/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert look(tmp_path).files == {"x": ["a.png"]}


# How files are called on the disk.


@pytest.mark.parametrize(
    ("listed", "stored"),
    [
        ("caf\u00e9{}.png", lambda name: unicodedata.normalize("NFD", name)),
        ("face{}.png", lambda name: name.replace(".png", ".PNG")),
        ("faces/face{}.png", lambda name: name.replace("faces", "Faces")),
    ],
    ids=["Unicode form", "suffix", "folder"],
)
def test_listed_files_in_another_spelling(tmp_path: Path, listed: str, stored: Callable[[str], str]) -> None:
    root, names = tmp_path / "copy", [listed.format(number) for number in range(6)]
    for number, name in enumerate(names):
        save_face(root / stored(name), number % 2, number)
    rows = [f"{name},{('happy', 'sad')[k % 2]},{'train' if k < 4 else 'test'}" for k, name in enumerate(names)]
    (root / "labels.csv").write_text("\n".join(["path,label,part", *rows]), encoding="utf-8")
    report = prepared("csv", root, partial=False)
    assert report.images == 6
    assert any(line.startswith("6 images were found under another spelling") for line in report.notices)
    assert open_dataset("csv", {}, root=root, cache=tmp_path / "cache").ids.tolist() == names


def test_two_files_that_a_name_may_mean_are_not_guessed_at(tmp_path: Path) -> None:
    for name in ("a.PNG", "A.png", "b.png"):
        save_face(tmp_path / "copy" / name, 0, ord(name[0]))
    (tmp_path / "copy" / "labels.csv").write_text("path,label\na.png,happy\nb.png,sad\n")
    with pytest.raises(DataError, match="1 x missing image of train: a.png"):
        prepared("csv", tmp_path / "copy", partial=False)


@pytest.mark.parametrize("name", ["Screenshot at 10.00.00\u202fAM.png", "\u8868\u60c5\u3000001.png", "a\u00a0b.png"])
def test_names_in_order_on_disk_are_read(tmp_path: Path, name: str) -> None:
    root = folders(tmp_path / "copy", WORDS[:2], suffix=".png", train=2, test=1)
    save_face(root / "train" / "happy" / name, 1, 50)
    assert prepared("folder", root, partial=False).images == 7


def test_a_name_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    root = folders(tmp_path / "copy", WORDS[:2], suffix=".png", train=2, test=1)
    os.rename(root / "train/happy/train_0.png", os.fsencode(root / "train/happy") + b"/caf\xe9.png")
    with pytest.raises(DataError, match="is not a name in UTF-8: rename the file"):
        prepared("folder", root)


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~ in a root, in the variable of a root and in that of the cache."""
    folders(tmp_path / "copy", WORDS[:2], train=2, test=1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FERBENCH_CACHE", "~/kept")
    assert cache_root() == tmp_path / "kept"
    assert prepare_dataset("folder", {}, root=Path("~/copy"), cache=cache_root()).images == 6
    monkeypatch.setenv("FERBENCH_FOLDER_ROOT", "~/copy")
    assert len(open_dataset("folder", {}, cache=cache_root()).train) == 4


# RAF-DB's names, and pictures that lie on their side.


@pytest.mark.parametrize(("suffix", "listed"), [("", ""), ("_aligned", "_aligned"), ("_aligned", "")])
def test_names_of_rafdb(tmp_path: Path, suffix: str, listed: str) -> None:
    root, lines = tmp_path / "copy" / "basic", []
    for part, each, digits in (("train", 2, 5), ("test", 1, 4)):
        for number in range(7 * each):
            name = f"{part}_{number + 1:0{digits}d}"
            lines.append(f"{name}{listed}.jpg {1 + number % 7}")
            save_face(root / "Image/aligned" / f"{name}{suffix}.jpg", number % 7, number + 100 * (part == "test"))
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel/list_patition_label.txt").write_text("\n".join([*lines, lines[-1]]))
    report = prepared("rafdb", tmp_path / "copy")
    assert (report.train, report.test) == (14, 7)
    assert "1 rows repeat an image that an earlier row names, and are left out" in report.notices
    faces = open_dataset("rafdb", {}, root=tmp_path / "copy", cache=tmp_path / "cache")
    assert faces.ids[0] == "train_00001.jpg"


def test_one_foreign_name_does_not_hide_others_in_the_wrong_part(tmp_path: Path) -> None:
    root = tmp_path / "copy"
    for part, digits in (("train", 5), ("test", 4)):
        for code in range(1, 8):
            save_face(root / part / str(code) / f"{part}_{code:0{digits}d}_aligned.jpg", code, 10 * digits)
    save_face(root / "train/1/test_0001_aligned_flip.jpg", 1, 99)
    lines = prepared("rafdb", root).differences
    assert "1 images are in another part than their names say, first test_0001_aligned_flip.jpg" in lines


@pytest.fixture
def telephone(tmp_path: Path) -> Path:
    """JPEGs stored lying, to be turned clockwise for viewing: a red forehead at the top of the upright picture."""
    rows = ["path,label,part"]
    for number in range(8):
        upright = np.full((64, 48, 3), 60 + 10 * number, np.uint8)
        upright[:20] = (250, 40, 40)
        exif = Image.Exif()
        exif[0x0112] = 6
        (tmp_path / "copy").mkdir(exist_ok=True)
        lying = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
        lying.save(tmp_path / "copy" / f"{number}.jpg", exif=exif, quality=95)
        rows.append(f"{number}.jpg,{('happy', 'sad')[number % 2]},{'train' if number < 6 else 'test'}")
    (tmp_path / "copy" / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "copy"


def test_pictures_from_a_telephone_stand_upright(telephone: Path) -> None:
    report = prepared("csv", telephone, partial=False, size=48)
    assert "8 images have an EXIF orientation other than upright: turned upright" in report.notices
    image = open_dataset("csv", {"size": 48}, root=telephone, cache=telephone.parent / "cache").images[0].astype(int)
    assert np.abs(image[4, 24] - (250, 40, 40)).max() < 12 and np.abs(image[40, 4] - 60).max() < 12
    assert report.sizes == {"48x64 RGB": 8}


def test_boxes_in_pixels_of_the_file_keep_the_file_as_it_is(telephone: Path) -> None:
    lines = (telephone / "labels.csv").read_text().splitlines()
    table = [f"{lines[0]},x1,y1,x2,y2", *(f"{line},0,0,64,48" for line in lines[1:])]
    (telephone / "labels.csv").write_text("\n".join(table))
    report = prepared("csv", telephone, partial=False, size=48)
    assert any("left as they are, since the boxes are in pixels of the file" in line for line in report.notices)
    assert report.sizes == {"64x48 RGB": 8}
