"""FER+ label rules against the published words, restated one image at a time in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferbench.bench.data.sets.ferplus.labels import CLASSES, COLUMNS, RULES, decide

UNKNOWN, NOT_FACE = 8, 9


def slow_majority(votes: list[int]) -> tuple[int, list[float]]:
    cleaned = [0 if vote <= 1 else vote for vote in votes]
    for column, vote in enumerate(cleaned):
        if 2 * vote > sum(cleaned):
            return column, [float(vote) for vote in votes[:8]]
    return UNKNOWN, [float(vote) for vote in votes[:8]]


def slow_argmax(votes: list[int], columns: int) -> tuple[int, list[float]]:
    most = max(votes[:columns])
    return votes.index(most) if most > 0 else UNKNOWN, [float(vote) for vote in votes[:8]]


def slow_distribution(votes: list[int]) -> tuple[int, list[float]]:
    """The authors' procedure in words: pass over the columns again and again, taking all at the current maximum."""
    left = [0.0 if vote <= 1 else float(vote) for vote in votes]
    total = sum(left)
    taken = [0.0] * 10
    covered, picks, going = 0.0, 0, True
    while going and covered < 0.75 * total and picks < 3:
        top = max(left)
        for column in range(10):
            if left[column] == top:
                left[column] = 0.0
                taken[column] = top
                covered += top
                picks += 1
                if column >= UNKNOWN:
                    going = False
                    if sum(taken) > top:
                        taken[column] = 0.0
                        picks -= 1
                    break
    if sum(taken) <= 0.5 * total or picks > 3:
        return UNKNOWN, [0.0] * 8
    label = taken.index(max(taken))
    return label, [share / sum(taken[:8]) for share in taken[:8]] if label < UNKNOWN else [0.0] * 8


def slow_multi_target(votes: list[int]) -> tuple[int, list[float]]:
    cleaned = [0.0 if vote <= 1 else float(vote) for vote in votes]
    kept = [vote if vote >= 0.3 * sum(cleaned) else 0.0 for vote in cleaned]
    if sum(kept) <= 0.5 * sum(cleaned):
        return UNKNOWN, [0.0] * 8
    label = kept.index(max(kept))
    return label, [float(vote > 0) for vote in kept[:8]] if label < UNKNOWN else [0.0] * 8


SLOW = {
    "majority": slow_majority,
    "argmax10": lambda votes: slow_argmax(votes, 10),
    "argmax8": lambda votes: slow_argmax(votes, 8),
    "probability": slow_distribution,
    "crossentropy": slow_distribution,
    "multi_target": slow_multi_target,
}
EDGES = {
    "no votes": [0] * 10,
    "only single votes": [1] * 10,
    "all unknown": [0, 0, 0, 0, 0, 0, 0, 0, 10, 0],
    "all not a face": [0, 0, 0, 0, 0, 0, 0, 0, 0, 10],
    "tie of two": [5, 5, 0, 0, 0, 0, 0, 0, 0, 0],
    "tie with unknown": [5, 0, 0, 0, 0, 0, 0, 0, 5, 0],
    "unknown and not a face tied": [2, 0, 0, 0, 0, 0, 0, 0, 4, 4],
    "exactly half": [5, 3, 2, 0, 0, 0, 0, 0, 0, 0],
    "half once a single vote is gone": [5, 4, 1, 0, 0, 0, 0, 0, 0, 0],
    "nine votes": [4, 3, 2, 0, 0, 0, 0, 0, 0, 0],
    "five classes tied": [2, 2, 2, 2, 2, 0, 0, 0, 0, 0],
    "tie brings the fourth pick": [4, 2, 2, 2, 0, 0, 0, 0, 0, 0],
    "unknown second": [6, 0, 0, 0, 0, 0, 0, 0, 3, 1],
    "unknown first": [3, 0, 0, 0, 0, 0, 0, 0, 7, 0],
    "last class": [0, 0, 0, 0, 0, 0, 0, 10, 0, 0],
}


def test_every_rule_is_restated() -> None:
    assert set(SLOW) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", EDGES)
def test_edge_case(rule: str, case: str) -> None:
    label, targets = SLOW[rule](EDGES[case])
    decision = decide(np.array([EDGES[case]], dtype=np.uint8), rule)
    assert decision.labels.tolist() == [label]
    np.testing.assert_allclose(decision.targets, [targets], rtol=1e-6)


@st.composite
def ten_taggers(draw: st.DrawFn) -> list[int]:
    """Votes of up to ten taggers, crowded on few columns so that ties are common."""
    columns = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    cast = draw(st.lists(st.sampled_from(columns), max_size=10))
    return [cast.count(column) for column in range(10)]


@pytest.mark.parametrize("rule", RULES)
@given(table=st.lists(ten_taggers(), max_size=20))
def test_any_votes(rule: str, table: list[list[int]]) -> None:
    decision = decide(np.array(table, dtype=np.uint8).reshape(-1, 10), rule)
    assert decision.targets.shape == (len(table), len(CLASSES)) and decision.targets.dtype == np.float32
    for row, votes in enumerate(table):
        label, targets = SLOW[rule](votes)
        assert decision.labels[row] == label, (votes, COLUMNS[label])
        np.testing.assert_allclose(decision.targets[row], targets, rtol=1e-6)


def test_worked_numbers() -> None:
    """6 neutral, 3 unknown, 1 NF: the single vote goes, 6 of 9 is a majority, and unknown ends the picking there."""
    votes = np.array([[6, 0, 0, 0, 0, 0, 0, 0, 3, 1], [4, 3, 0, 3, 0, 0, 0, 0, 0, 0]])
    assert decide(votes, "majority").labels.tolist() == [0, UNKNOWN]
    assert decide(votes, "probability").labels.tolist() == [0, 0]
    assert decide(votes, "probability").targets[1].tolist() == pytest.approx([0.4, 0.3, 0, 0.3, 0, 0, 0, 0])
    assert decide(votes, "multi_target").targets.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]]
