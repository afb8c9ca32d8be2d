"""A search for learning rates with the grey wolf optimiser (Mirjalili et al., 2014; SSFER, Section 4.9 and Table 16).

SSFER tunes the largest, the least and the first rate of its supervised stage and does not say what the search scores.
Here it is the accuracy on labelled images that are held out: never on the test set. The optimiser is NiaPy's, an
optional dependency; rates are searched on a logarithmic scale. Every wolf's step is an ordinary run in a folder of its
own, so a search that was stopped goes on where it was: the same seed proposes the same rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.training.recording.records import RunError

Objective = Callable[[Mapping[str, float]], float]  # of values by name, the larger the better
Bounds = Mapping[str, tuple[float, float]]

# The rates of Section 4.2 (1e-4, 1e-5, 5e-5) with a factor of about ten to either side.
BOUNDS: Bounds = {"lr": (1e-5, 1e-3), "min_lr": (1e-6, 1e-4), "warmup_lr": (5e-6, 5e-4)}


@dataclass
class Search:
    """What was tried, in order: the values and their score; the best is the first of the highest."""

    tried: list[tuple[dict[str, float], float]] = field(default_factory=list)

    @property
    def best(self) -> tuple[dict[str, float], float]:
        return max(self.tried, key=lambda entry: entry[1])


def grey_wolf(objective: Objective, bounds: Bounds, *, wolves: int = 5, rounds: int = 4, seed: int = 1) -> Search:
    """Search `bounds` (name to lowest and highest value, both above 0) with `wolves` for `rounds` after the first look.

    objective: called wolves * (rounds + 1) times. Raises RunError where NiaPy is missing or a bound is no interval.
    """
    _check(bounds, wolves, rounds)
    low, high = (np.array([math.log10(pair[side]) for pair in bounds.values()]) for side in (0, 1))
    search = Search()

    def score(position: NDArray[np.float64]) -> float:
        values = {name: float(f"{10**place:.4g}") for name, place in zip(bounds, position, strict=True)}
        search.tried.append((values, objective(values)))
        return search.tried[-1][1]

    _run(score, low, high, wolves, wolves * (rounds + 1), seed)
    return search


def _run(
    score: Callable[[NDArray[np.float64]], float],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    wolves: int,
    calls: int,
    seed: int,
) -> None:
    """NiaPy's optimiser on a score to be made large, within low and high [n]."""
    niapy = _niapy()

    class Rates(niapy.problems.Problem):  # type: ignore[misc, name-defined]  # NiaPy has no annotations
        def __init__(self) -> None:
            super().__init__(dimension=len(low), lower=low, upper=high)

        def _evaluate(self, x: NDArray[np.float64]) -> float:
            return score(x)

    task = niapy.task.Task(problem=Rates(), max_evals=calls, optimization_type=niapy.task.OptimizationType.MAXIMIZATION)
    niapy.algorithms.basic.GreyWolfOptimizer(population_size=wolves, seed=seed).run(task)


def _check(bounds: Bounds, wolves: int, rounds: int) -> None:
    for name, (lowest, highest) in bounds.items():
        if not 0 < lowest < highest < math.inf:
            raise RunError(f"--bound {name}={lowest:g}:{highest:g}: write LOWEST:HIGHEST, both above 0")
    if wolves < 3 or rounds < 1:
        raise RunError(f"the pack has three leaders: at least 3 wolves and 1 round, not {wolves} and {rounds}")


def _niapy() -> Any:
    try:
        import niapy
        import niapy.algorithms.basic
        import niapy.problems
        import niapy.task
    except ImportError as error:
        raise RunError("the search needs NiaPy: pip install 'ferbench[tune]'") from error
    return niapy
