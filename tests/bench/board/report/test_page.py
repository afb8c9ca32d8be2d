"""The page's words and numbers, and that a name in a file stays a name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ferbench.bench.board.report.page import page, write_report
from ferbench.bench.board.report.pictures import Bar, Curve, Point, curves, differences, scatter, ticks
from ferbench.bench.training.recording.records import RunError
from tests.bench.board.conftest import Command, EvidentRun, edit


def rows(text: str, anchor: str) -> str:
    found = re.search(rf'<details class="table" id="{anchor}".*?</table>', text, re.DOTALL)
    assert found
    return found[0]


def test_it_says_first_that_nothing_is_comparable(tmp_path: Path, evident_run: EvidentRun) -> None:
    evident_run()
    text = page(tmp_path)
    assert text.index("No number here is comparable") < text.index("<main>")
    assert "<dt>finished runs</dt><dd>1</dd>" in text and "<dt>runs that can be verified</dt><dd>1</dd>" in text


def test_a_table_like_the_papers(tmp_path: Path, evident_run: EvidentRun) -> None:
    for seed in (1, 2):
        evident_run("fixmatch", seed, 0.9)
        evident_run("vanilla", seed, 0.2)
    table = rows(page(tmp_path), "demo-1")
    assert re.search(
        r"<b>\d+\.\d\d ±\d+\.\d\d</b> <span class=\"mark best\">best</span> <span class=\"small\">n=2, 95 %", table
    )
    assert "not run" in table  # ReMoP's row
    remop = rows(page(tmp_path), "remop-4")
    assert "not run, " in remop and " h</td>" in remop and "85.81" in remop


def test_comparable_numbers_have_their_difference_in_colour(tmp_path: Path, record_run: object) -> None:
    assert callable(record_run)
    record_run("remop/3/remop/rafdb-500-150", 1, 85.0)
    text = page(tmp_path)
    assert "can stand beside published ones" in text
    table = rows(text, "remop-3")
    assert 'class="up2"' in table and '<span class="delta">+3.58</span>' in table
    assert '<circle class="dot yes"' in text


def test_claims(tmp_path: Path, record_run: object) -> None:
    """FixMatch's gain on RAF-DB (500, 150): 1.6 to 2.4 points, where 4.25 and 5.36 are printed."""
    assert callable(record_run)
    for seed in range(1, 6):
        record_run("remop/3/vanilla/rafdb-500-150", seed, 70.0 + seed)
        record_run("remop/3/fixmatch/rafdb-500-150", seed, 72.0 + seed + 0.2 * (seed - 3))
    text = page(tmp_path)
    section = re.sub(r"\s+", " ", text[text.index('<section id="claims"') : text.index('<section id="columns"')])
    assert "remop: FixMatch over Vanilla" in section and section.count("<tbody>") == 1
    assert section.count("<td>+2.00</td><td>[+1.61, +2.39]</td>") == 2  # t(4) = 2.776, deviation 0.316, root of 5
    assert '<td class="up2">shown, smaller than published</td>' in section
    assert "No claim has runs" in page(_empty(tmp_path / "other"))


def _empty(folder: Path) -> Path:
    (folder / "runs").mkdir(parents=True)
    return folder


def test_a_column_in_detail(tmp_path: Path, evident_run: EvidentRun) -> None:
    for seed in (1, 2):
        evident_run("fixmatch", seed, 0.9)
        evident_run("vanilla", seed, 0.3)
    text = page(tmp_path)
    assert text.index("happiness<br>") < text.index("surprise<br>") < text.index("fear<br>")  # 60, 30, 10 images
    assert text.count('<table class="confusion">') == 2
    assert re.search(r"Differences from FixMatch, mean: Vanilla -\d+\.\d\d \[", text)
    assert "two rows must differ by" in text
    diagonal = [int(share) for share in re.findall(r'class="right">(\d+)<', text)]
    assert len(diagonal) == 6 and all(0 <= share <= 100 for share in diagonal)


def test_records_of_old_say_what_is_not_known(tmp_path: Path, evident_run: EvidentRun) -> None:
    for row in ("fixmatch", "vanilla"):
        name = evident_run(row)
        edit(tmp_path / "runs" / name / "record.json", lambda record: record.pop("evidence"))
    text = page(tmp_path)
    assert "recall by class and confusion are not known" in text and "none: not verifiable" in text


def test_a_card_for_each_run(tmp_path: Path, evident_run: EvidentRun) -> None:
    made, own = evident_run(seed=2), evident_run("vanilla", own=True)
    text = page(tmp_path)
    assert f'href="runs/{made}/record.json"' in text
    assert "ferbench reproduce demo/1/fixmatch/synthetic-200-20 --preset cpu --seeds 2 --variant paper" in text
    assert f'id="run-{own}"' in text
    assert "ferbench train vanilla --dataset synthetic --split long_tailed:n1=200,gamma=20.0" in text
    assert "code</dt><dd>c0de, commit abc" in text and "--recipe epochs=" not in text  # the usual ones


def test_the_command_of_a_card_gives_the_same_run(tmp_path: Path, evident_run: EvidentRun, command: Command) -> None:
    """The run's own folder is found again, finished: nothing is trained."""
    import html
    import shlex

    from ferbench.bench.data.sets.readers import open_dataset
    from ferbench.bench.data.splits.draw import make_split
    from ferbench.bench.training.recording import records

    name = evident_run("vanilla", own=True)
    found = re.search(r"<code>(ferbench train .*?)</code>", page(tmp_path))
    assert found
    words = shlex.split(html.unescape(found[1]))[1:]
    assert words[:2] == ["train", "vanilla"]
    options = [word for flag, word in zip(words[:-1], words[1:], strict=True) if flag == "--data-option"]
    assert options
    spec = records.read_json(tmp_path / "runs" / name / "spec.json")
    faces = open_dataset("synthetic", spec["dataset"]["options"], cache=tmp_path / "cache")
    drawn = make_split(faces, spec["split"]["kind"], spec["split"]["parameters"], 1)
    assert drawn.recipe == "long_tailed"
    assert command(*words, "--recipe", "epochs=0", "--results", str(tmp_path)) == 2  # every word before it is accepted


HOSTILE = "</style></script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'"


def test_hostile_names_stay_text(tmp_path: Path, evident_run: EvidentRun) -> None:
    name = evident_run(own=True, split={"kind": HOSTILE, "parameters": {}})
    edit(tmp_path / "runs" / name / "record.json", lambda record: record.update(device=HOSTILE, commit=HOSTILE))
    edit(
        tmp_path / "runs" / name / "record.json",
        lambda record: record["evidence"].update(classes=[HOSTILE, "b", "c"]),
    )
    folder = tmp_path / "runs" / "<b>broken"
    folder.mkdir()
    (folder / "spec.json").write_text("{")
    (folder / "record.json").write_text("{")
    text = page(tmp_path)
    assert "<img" not in text and "<script>document" not in text and "<b>broken" not in text
    assert text.count("<script>") == 1 and text.count("</style>") == 1


def test_not_counted_runs_are_listed_with_the_reason(tmp_path: Path, evident_run: EvidentRun) -> None:
    evident_run(made_for={"protocol": "demo", "version": 0, "hash": "h", "cell": "demo/1/fixmatch/synthetic-200-20"})
    begun = evident_run("vanilla")
    (tmp_path / "runs" / begun / "record.json").unlink()
    text = page(tmp_path)
    assert "stale: made under version 0 of demo" in text and f"<code>{begun}</code>: begun" in text


def test_an_empty_results_folder_is_a_page_and_none_is_an_error(tmp_path: Path) -> None:
    assert "There are no finished runs" in page(tmp_path)
    with pytest.raises(RunError, match="no such results folder"):
        write_report(tmp_path / "nope")


def test_command_writes_it_where_asked(tmp_path: Path, evident_run: EvidentRun, command: Command) -> None:
    name = evident_run()
    assert command("report", "--results", str(tmp_path)) == 0
    assert f'href="runs/{name}' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert command("report", "--results", str(tmp_path), "--out", str(tmp_path / "a" / "page.html")) == 0
    assert f"/runs/{name}" in (tmp_path / "a" / "page.html").read_text(encoding="utf-8")


def test_nothing_is_asked_of_a_network(tmp_path: Path, evident_run: EvidentRun) -> None:
    evident_run()
    text = page(tmp_path)
    assert "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)


def test_pictures() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(61.2, 64.9) == [62, 63, 64] and ticks(-0.2, 0.2)[0] == -0.2
    drawn = scatter([Point(80, 70, 60, 75, "<a>", False), Point(50, 55, None, None, "b", True)])
    assert drawn.count("<circle") == 2 and drawn.count('class="whisker"') == 1 and "<a>" not in drawn
    line = curves(
        [Curve("a", 0, [1, 2], [50, 60], [50, 60], [50, 60]), Curve("b", 1, [1, 2], [5, 6], [4, 5], [6, 7])], "x"
    )
    assert line.count('class="line') == 2 and line.count('class="band') == 1
    bars = differences([Bar("a", 2.0, 1.0, 3.0), Bar("b", 1.0, -1.0, 3.0), Bar("c", 1.0, None, None)], "base")
    assert bars.count("dot yes") == 1 and bars.count("dot no") == 2 and bars.count('<path class="whisker') == 2
