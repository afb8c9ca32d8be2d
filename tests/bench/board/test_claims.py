"""Claims put to the test: which runs are a test of one, what an interval says of it, and how many seeds it needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import nct, t

from ferbench.bench.board.claims import Finding, one_class, put_to_the_test, verdict
from ferbench.bench.board.compare import compare, side
from ferbench.bench.board.leaderboard import collect
from ferbench.bench.board.statistics import Difference, Interval, Parts, combined, parts, seeds_needed
from ferbench.bench.tables.settings import settings
from ferbench.bench.training.recording import evidence
from ferbench.protocols import Claim, load_protocol, select
from tests.bench.board.conftest import DEMO, LABELS, Command, EvidentRun, record_of

OVER_VANILLA = Claim("over-vanilla", "FixMatch over Vanilla", ("1",), "fixmatch", "vanilla")


def findings(results: Path, *claims: Claim) -> tuple[list[Finding], list[str]]:
    protocol = dataclasses.replace(load_protocol("demo"), claims=claims)
    found, untested = put_to_the_test(collect(results, [protocol]))
    return found, [claim.id for _, claim in untested]


def run_both(evident_run: EvidentRun, seeds: int, first: float = 0.9, second: float = 0.5) -> None:
    for seed in range(1, seeds + 1):
        evident_run("fixmatch", seed, first)
        evident_run("vanilla", seed, second)


def test_a_claim_is_tested_on_the_seeds_that_both_rows_have(tmp_path: Path, evident_run: EvidentRun) -> None:
    run_both(evident_run, 5)
    evident_run("fixmatch", 6, 0.1)  # of one row alone
    (found,), untested = findings(tmp_path, OVER_VANILLA)
    assert found.seeds == 5 and len(found.runs) == 10 and not untested
    assert found.presets == ("cpu", "cpu") and found.starts == ("none", "none")
    for path in tmp_path.glob("runs/*-s6-*/record.json"):
        path.unlink()
    expected = {
        one.what: one for one in compare(*(side(DEMO.format(x), tmp_path) for x in ("fixmatch", "vanilla"))).compared
    }
    for outcome in found.outcomes:
        assert outcome.difference == expected[outcome.metric].difference
        assert outcome.published is None and outcome.needed is None
        assert outcome.verdict == "shown"


def test_no_verdict_under_five_seeds(tmp_path: Path, evident_run: EvidentRun) -> None:
    run_both(evident_run, 4)
    (found,), _ = findings(tmp_path, OVER_VANILLA)
    assert {outcome.verdict for outcome in found.outcomes} == {"no verdict from 4 seeds"}


def test_without_runs_of_both_rows_a_claim_is_untested(tmp_path: Path, evident_run: EvidentRun) -> None:
    evident_run("fixmatch", 1)
    evident_run("vanilla", 2)  # no seed in common
    assert findings(tmp_path, OVER_VANILLA) == ([], ["over-vanilla"])


def test_runs_in_another_variant_are_no_test(tmp_path: Path, evident_run: EvidentRun) -> None:
    """ReMoP's released form changes its options: asked for in it, the row is not the claim's."""
    (cell,) = select(DEMO.format("remop"))
    released = settings(cell, "cpu", 1, "released")
    for seed in range(1, 6):
        evident_run("vanilla", seed)
        evident_run("remop", seed, variant=released["variant"], options=released["options"])
    of_remop = dataclasses.replace(OVER_VANILLA, id="remop", first="remop")
    assert {run.variant for run in collect(tmp_path, [load_protocol("demo")]).runs[DEMO.format("remop")]} == {
        "released"
    }
    assert findings(tmp_path, of_remop) == ([], ["remop"])


def test_a_claim_of_two_rules_of_one_row(tmp_path: Path, evident_run: EvidentRun) -> None:
    """The published number of the row is that of neither rule, and a run that keeps one rule alone is no test."""
    for seed in range(1, 6):
        evident_run("remop", seed, 0.7, rules=("mixture", "linear"))
    of_rules = Claim("rules", "the mixture over the linear prediction", ("1",), "remop", "remop@linear")
    (found,), _ = findings(tmp_path, of_rules, dataclasses.replace(of_rules, id="none", second="remop@centers"))
    row = DEMO.format("remop")
    expected = compare(side(row, tmp_path), side(f"{row}@linear", tmp_path)).compared[0].difference
    assert found.outcomes[0].difference == expected and found.outcomes[0].published is None
    assert findings(tmp_path, dataclasses.replace(of_rules, second="remop@centers")) == ([], ["rules"])


def test_runs_that_serve_two_tables_are_one_test(tmp_path: Path, evident_run: EvidentRun) -> None:
    run_both(evident_run, 2)
    found, _ = findings(tmp_path, dataclasses.replace(OVER_VANILLA, tables=("1", "1")))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("low", "high", "published", "said"),
    [
        (0.1, 2.0, None, "shown"),
        (0.1, 2.0, 1.0, "shown, may be as published"),
        (0.1, 2.0, 3.0, "shown, smaller than published"),
        (1.5, 2.0, 1.0, "shown, larger than published"),
        (-2.0, -0.1, 1.0, "refuted: the reverse is shown"),
        (-1.0, 1.0, 2.0, "refuted at the published size"),
        (-1.0, 1.0, 0.5, "cannot tell"),
        (-1.0, 1.0, None, "cannot tell"),
        (-1.0, 1.0, -2.0, "cannot tell"),  # a table in which the paper itself prints the reverse
        (0.0, 1.0, None, "cannot tell"),
    ],
)
def test_verdicts(low: float, high: float, published: float | None, said: str) -> None:
    interval = Interval(low, high)
    assert verdict(Difference((low + high) / 2, 5, interval, interval), published) == said
    assert verdict(Difference(low, 1, None, None), published) == "no verdict from 1 seed"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (LABELS, ""),
        (np.zeros_like(LABELS), "answers surprise for 100 % of the images: it has not learnt"),
        (np.where(np.arange(100) < 9, 1, 2), "answers happiness for 91 % of the images: it has not learnt"),
        (np.where(np.arange(100) < 11, 1, 2), ""),
    ],
)
def test_a_row_that_answers_one_class_is_named(answers: np.ndarray, said: str) -> None:
    record, _ = record_of({"main": np.eye(3, dtype=np.float32)[answers]}, {"seed": 1})
    found = evidence.from_record(record)
    assert found is not None and one_class([found, found]) == said
    assert one_class([]) == ""


def power_of_t(size: float, deviation: float, seeds: int) -> float:
    """Of the two-sided paired t test at 5 %, exactly."""
    shift, critical = size / deviation * seeds**0.5, t.ppf(0.975, seeds - 1)
    return float(nct.sf(critical, seeds - 1, shift) + nct.cdf(-critical, seeds - 1, shift))


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8, 1.0, 1.5, 2.0])
def test_seeds_needed_are_those_of_the_noncentral_t(ratio: float) -> None:
    exact = next(number for number in range(2, 1001) if power_of_t(ratio, 1.0, number) >= 0.8)
    for known in (2, 5):  # seeds that the deviation of 1 was seen in
        assert abs(seeds_needed(Parts(0.0, 1.0 / known, 0.0), known, ratio) - exact) <= 1  # type: ignore[operator]


def test_seeds_needed_with_few_test_images() -> None:
    """More seeds cannot make up for images: 1 point of them alone cannot tell 2 points (1.96 + 0.84 = 2.8)."""
    assert seeds_needed(Parts(0.0, 0.01, 1.0), 5, 2.0) is None
    assert seeds_needed(Parts(0.0, 0.01, 1.0), 5, 3.0) is not None
    assert seeds_needed(Parts(0.0, 1.0, 0.0), 5, -1.0) == seeds_needed(Parts(0.0, 1.0, 0.0), 5, 1.0)


def test_that_many_seeds_do_tell_it() -> None:
    """Simulated: errors of two methods that share most images, with seeds that move both the same way or not."""
    rng, told, size, images = np.random.default_rng(3), 0, 3.0, 2000
    sizes = np.array([images])

    def sample(seeds: int) -> tuple[np.ndarray, np.ndarray]:
        moved = size / 100 + 0.015 * rng.standard_normal((seeds, 1))
        draw = rng.random((seeds, images))
        return draw < 0.6 + moved, draw < 0.6

    found = parts(*sample(200), sizes, "overall")
    needed = seeds_needed(found, 200, size)
    assert needed is not None and 3 <= needed <= 6
    for _ in range(400):
        one = parts(*sample(needed), sizes, "overall")
        told += one.mean > combined(one.seeds, needed - 1, one.images)
    assert 0.7 < told / 400 < 0.97  # of whole seeds: the next smaller number has less than four fifths


def test_the_papers_print_what_they_claim() -> None:
    """Over the columns of a claim's tables, or by the two cells it names, the first row stands above the second."""
    seen = 0
    for protocol in map(load_protocol, ("remop", "leaf", "adacm", "ssfer", "pll")):
        tables = {table.id: table for table in protocol.tables}
        for claim in protocol.claims:
            pairs = [
                (
                    table.published.get((claim.first, column.id, metric)),
                    table.published.get((claim.second, column.id, metric)),
                )
                for table in (tables[name] for name in claim.tables)
                for column in table.columns
                for metric in table.metrics
                if claim.first != claim.second
            ]
            if claim.published:
                named = [tuple(place.split("/")) for place in claim.published]
                metrics = tables[named[0][0]].metrics
                pairs += [tuple(tables[t].published.get((r, c, m)) for t, r, c in named) for m in metrics]  # type: ignore[misc]
            differences = [one.mean - other.mean for one, other in pairs if one and other]
            seen += bool(differences)
            assert not differences or np.mean(differences) > 0, (protocol.name, claim.id, differences)
    assert seen > 20


def test_the_command_names_what_is_shown_and_what_was_not_run(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    assert command("claims", "leaf", "--results", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "leaf: LEAF over FixMatch: not run, `ferbench reproduce leaf/1`" in said
    assert command("claims", "laef", "--results", str(tmp_path)) == 2
    assert "did you mean 'leaf'?" in capsys.readouterr().err
