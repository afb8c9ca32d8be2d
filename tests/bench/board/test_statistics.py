"""Intervals of differences: exact cases by hand or by scipy, and how often they hold the truth, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ferbench.bench.board import statistics
from ferbench.bench.board.statistics import Bits, Interval

SIZES = np.array([300, 200, 120, 100, 60, 30, 15])
EASE = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0])


def two_methods(rng: np.random.Generator, seeds: int, spread: float) -> tuple[Bits, Bits]:
    """Bits [S, N] of two methods that are equally good over all seeds and all images that could have been drawn.

    Images are hard for both, and harder for one; a seed moves each method's classes by `spread`.
    """
    of = np.repeat(np.arange(len(SIZES)), SIZES)
    hard = EASE[of] + rng.normal(0, 1.5, len(of))
    bits = []
    for own in rng.normal(0, 0.6, (2, len(of))):
        moved = rng.normal(0, spread, (seeds, len(SIZES)))[:, of]
        bits.append(hard + own + moved + rng.normal(0, 0.7, (seeds, len(of))) > 0)
    return bits[0], bits[1]


def held(seeds: int, spread: float, metric: str, repeats: int = 250) -> dict[str, float]:
    """How often each interval holds the true difference, which is 0."""
    rng = np.random.default_rng(7)
    found = {"interval": 0, "seeds_only": 0, "bootstrap": 0}
    for _ in range(repeats):
        first, second = two_methods(rng, seeds, spread)
        one = statistics.paired(first, second, SIZES, metric, draws=200)
        for name in found:
            low, high = getattr(one, name)
            found[name] += low <= 0 <= high
    return {name: count / repeats for name, count in found.items()}


@pytest.mark.parametrize("metric", ["overall", "mean"])
@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.0), (2, 0.3), (3, 0.1), (5, 0.0), (5, 0.3)])
def test_the_interval_holds_the_true_difference(seeds: int, spread: float, metric: str) -> None:
    """95 % are promised. Of 250 draws at exactly that, fewer than 230 (92 %) come up one time in a hundred."""
    assert held(seeds, spread, metric)["interval"] >= 0.92


def test_the_usual_intervals_do_not_hold_it() -> None:
    """Why they are not the headline: seeds alone know nothing of other images; two seeds have no percentiles."""
    assert held(5, 0.0, "overall")["seeds_only"] < 0.9
    assert held(2, 0.3, "overall")["bootstrap"] < 0.92


def test_the_interval_is_not_merely_wide() -> None:
    """Five seeds, 825 images: a difference of 6 points is seen more often than not."""
    rng = np.random.default_rng(3)
    seen = 0
    for _ in range(60):
        first, second = two_methods(rng, 5, 0.05)
        worse = second & (rng.random(second.shape) > 0.1)
        seen += statistics.paired(first, worse, SIZES, "overall", draws=10).interval.without_zero  # type: ignore[union-attr]
    assert seen > 45


def test_parts_by_slow_loops() -> None:
    """Variance of the mean from the sums of squares of the layout seeds x images, one stratum."""
    rng = np.random.default_rng(0)
    first, second = rng.random((3, 20)) < 0.7, rng.random((3, 20)) < 0.5
    x = 100.0 * (first.astype(float) - second)
    grand = sum(x[s, i] for s in range(3) for i in range(20)) / 60
    of_seed, of_image = [sum(row) / 20 for row in x], [sum(x[s, i] for s in range(3)) / 3 for i in range(20)]
    over_seeds = sum((value - grand) ** 2 for value in of_seed) / 2 / 3
    over_images = sum((value - grand) ** 2 for value in of_image) / 19 / 20
    rest = sum((x[s, i] - of_seed[s] - of_image[i] + grand) ** 2 for s in range(3) for i in range(20))
    found = statistics.parts(first, second, np.array([12, 8]), "overall")
    assert found.mean == pytest.approx(grand)
    assert found.seeds == pytest.approx(over_seeds)
    assert found.images == pytest.approx(max(over_images - rest / (2 * 19) / (3 * 20), 0))


def test_differences_are_those_of_the_metrics() -> None:
    rng = np.random.default_rng(1)
    sizes = np.array([30, 0, 12, 5])
    first, second = rng.random((2, 47)) < 0.7, rng.random((2, 47)) < 0.5

    def recall(bits: NDArray[np.bool_], k: int) -> float:
        start = int(sizes[:k].sum())
        return 100 * float(bits[:, start : start + sizes[k]].mean())

    def mean(bits: NDArray[np.bool_]) -> float:
        return float(np.mean([recall(bits, k) for k in (0, 2, 3)]))

    for metric, expected in [
        ("overall", 100 * (first.mean() - second.mean())),
        ("mean", mean(first) - mean(second)),
        (2, recall(first, 2) - recall(second, 2)),
    ]:
        assert statistics.paired(first, second, sizes, metric).mean == pytest.approx(expected)
    with pytest.raises(ValueError, match="f1"):
        statistics.weights(sizes, "f1")


def test_one_seed_has_an_interval_over_images_alone() -> None:
    first, second = np.array([[1, 1, 1, 0, 1, 0, 1, 1]], bool), np.array([[1, 0, 0, 0, 1, 1, 1, 0]], bool)
    found = statistics.paired(first, second, np.array([8]), "overall")
    x = 100 * (first[0].astype(float) - second[0])
    half = 1.959964 * x.std(ddof=1) / 8**0.5
    assert found.seeds_only is None
    assert found.interval == pytest.approx((x.mean() - half, x.mean() + half))


def test_student_is_scipys() -> None:
    values = [61.2, 63.0, 60.8, 62.2]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert statistics.student(values) == pytest.approx(expected)
    assert statistics.student([61.2]) is None
    assert statistics.student_p([1.0, 2.0, 1.5]) == pytest.approx(stats.ttest_1samp([1.0, 2.0, 1.5], 0).pvalue)
    assert (statistics.student_p([1.0]), statistics.student_p([0.0, 0.0]), statistics.student_p([2.0, 2.0])) == (
        1,
        1,
        0,
    )


def test_the_interval_of_two_seeds_is_nine_times_their_deviation() -> None:
    interval = statistics.student([60.0, 61.0])
    assert interval is not None
    assert (interval.high - interval.low) / 2 / (0.5**0.5) == pytest.approx(8.985, abs=1e-3)


def test_mcnemar_is_the_binomial_test() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.random(300) < 0.6, rng.random(300) < 0.55
    found = statistics.mcnemar(first, second)
    assert (found.first, found.second) == (int((first & ~second).sum()), int((second & ~first).sum()))
    assert found.p == pytest.approx(stats.binomtest(found.first, found.first + found.second).pvalue)
    assert statistics.mcnemar(first, first) == (0, 0, 1.0)
    assert statistics.mcnemar(np.array([1, 0], bool), np.array([0, 1], bool)).p == 1.0


def test_bootstrap_spreads_as_the_images_do() -> None:
    """One seed: its percentiles are the interval over images, and the same ones each time."""
    rng = np.random.default_rng(5)
    first, second = rng.random((1, 2000)) < 0.7, rng.random((1, 2000)) < 0.65
    found = statistics.paired(first, second, np.array([2000]), "overall")
    assert found.bootstrap == pytest.approx(found.interval, abs=0.25)
    again = statistics.bootstrap(first, second, np.array([2000]), "overall")
    assert found.bootstrap == again


def test_a_class_of_one_image_is_as_uncertain_as_can_be() -> None:
    found = statistics.parts(np.array([[True]]), np.array([[False]]), np.array([1]), 0)
    assert found == (100.0, 0.0, 100.0**2)


def test_howe_is_student_or_normal_at_the_ends() -> None:
    assert statistics.combined(4.0, 3, 0.0) == pytest.approx(2 * stats.t.ppf(0.975, 3))
    assert statistics.combined(0.0, 1, 9.0) == pytest.approx(3 * stats.norm.ppf(0.975))
    assert statistics.combined(4.0, math.inf, 9.0) == pytest.approx(13**0.5 * stats.norm.ppf(0.975))


def test_residual_is_that_of_the_layout_rows_by_seeds() -> None:
    """Row and seed effects are gone; what is left of one entry moves the rest by its share."""
    table = np.add.outer([60.0, 62.0, 70.0], [0.0, 1.5])
    assert statistics.residual(table)[0] == pytest.approx(0.0)
    table[0, 0] += 6.0  # residual 6 * (1 - 1/3) * (1 - 1/2) there: sum of squares 36 * 2/3 * 1/2
    assert statistics.residual(table) == (pytest.approx(12.0 / 2), 2)


def test_independent_errors_add_the_most() -> None:
    assert statistics.unpaired_images(50.0, 50.0, 1250) == pytest.approx(2 * 2500 / 1250)


def test_without_zero() -> None:
    assert Interval(0.1, 2.0).without_zero
    assert Interval(-2.0, -0.1).without_zero
    assert not Interval(-0.1, 2.0).without_zero
