"""The whole page: one HTML file with its styles, its script and its pictures in it, readable without any of them.

It asks for nothing from anywhere: a policy in its head forbids it. Every name that comes from a file is escaped.
"""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from ferbench import __version__
from ferbench.bench.board.claims import Finding, put_to_the_test
from ferbench.bench.board.frame import existing
from ferbench.bench.board.leaderboard import Leaderboard, collect
from ferbench.bench.board.order import orders
from ferbench.bench.board.own import OWN
from ferbench.bench.board.report import pictures
from ferbench.bench.board.report.cards import make_card, results_link
from ferbench.bench.board.report.columns import ColumnView, column_views
from ferbench.bench.board.report.tables import table_view
from ferbench.bench.board.run_names import list_runs
from ferbench.bench.board.shown import interval_text, needed_text, setting_text
from ferbench.bench.tables.counting.counted import Run
from ferbench.bench.training.recording import records
from ferbench.methods import METHODS


@dataclass(frozen=True)
class Summary:
    """What is on the page, in numbers: cells are those of the last epoch."""

    runs: int
    published: int
    measured: int
    comparable: int
    verifiable: int
    own: int
    devices: tuple[str, ...]
    commits: tuple[str, ...]
    presets: tuple[str, ...]


def write_report(results: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a results folder and return where: `report.html` in it, or `out`. Raises RunError."""
    folder = existing(results)
    path = Path(out) if out else folder / "report.html"
    text = page(folder, results_link(folder, path))
    records.write(path, lambda file: file.write(text.encode()))
    return path


def page(results: Path, link: str = "") -> str:
    """The page's text. link: the way from it to the results folder."""
    board = collect(results)
    runs = list_runs(results)
    served: dict[str, list[Run]] = defaultdict(list)
    for found in board.runs.values():
        for run in found:
            served[run.id].append(run)
    cards = [make_card(run, served[run.folder.name]) for run in runs if run.state == "finished"]
    with_runs = {line.paper for line in board.lines if line.run_ids}
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_file("page.html"))
    return template.render(
        title=f"ferbench: {results.resolve().name}",
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(_file("page.css")),
        script=Markup(_file("page.js")),
        link=link,
        summary=_summary(board, len(cards)),
        papers=[
            (protocol, [table_view(protocol, table, board) for table in protocol.tables], protocol.name in with_runs)
            for protocol in sorted(board.protocols, key=lambda one: (one.name != OWN, one.name not in with_runs))
        ],
        scatter=_scatter(board),
        claims=[_claim_view(one) for one in put_to_the_test(board)[0]],
        columns=_once(
            [
                view
                for one in board.protocols
                for table in one.tables
                for view in column_views(one, table, board, results)
            ]
        ),
        cards=cards,
        methods=_methods(board),
        ignored=board.ignored,
        unfinished=[run for run in runs if run.state != "finished"],
    )


def _summary(board: Leaderboard, runs: int) -> Summary:
    cells = [line for line in board.lines if line.selection in ("last", "")]
    measured = [line for line in cells if line.run_ids]
    every = {run.id: run for found in board.runs.values() for run in found if run.record}.values()

    def counted(key: str) -> tuple[str, ...]:
        return tuple(
            f"{name} ({count})" for name, count in Counter(str(run.record.get(key)) for run in every).most_common()
        )

    return Summary(
        runs=runs,
        published=len(
            {(line.paper, line.table, line.row, line.column, line.metric) for line in cells if line.published_mean}
        ),
        measured=sum(line.published_mean is not None for line in measured),
        comparable=sum(line.published_mean is not None and bool(line.comparable) for line in measured),
        verifiable=sum(isinstance(run.record.get("evidence"), dict) for run in every),
        own=sum(line.paper == OWN for line in measured),
        devices=counted("device"),
        commits=counted("commit"),
        presets=tuple(sorted({run.preset for run in every})),
    )


def _scatter(board: Leaderboard) -> tuple[Markup, str] | None:
    """Published against measured, and how alike they order the rows."""
    lines = [
        line
        for line in board.lines
        if line.selection == "last" and line.published_mean is not None and line.metric in ("overall", "mean")
    ]
    points = [
        pictures.Point(
            line.published_mean or 0.0, line.measured_mean or 0.0, line.ci_low, line.ci_high,
            f"{line.paper} {line.table}, {line.row_label}, {line.column_label}, {line.metric}", bool(line.comparable),
        )
        for line in lines if line.measured_mean is not None
    ]  # fmt: skip
    if not points:
        return None
    return pictures.scatter(points), "; ".join(map(str, orders(board)))


@dataclass(frozen=True)
class ClaimView:
    """A claim in one column; outcomes: metric, published, here, interval, verdict, and the class that marks it."""

    says: str
    where: str
    seeds: int
    outcomes: tuple[tuple[str, str, str, str, str, str], ...]


def _claim_view(one: Finding) -> ClaimView:
    marks = {"shown": "up2", "refut": "down2"}
    return ClaimView(
        says=f"{one.first.protocol.name}: {one.claim.says}",
        where="; ".join([f"{one.first.table.id}, {one.first.column.label}, {setting_text(one)}", *one.remarks]),
        seeds=one.seeds,
        outcomes=tuple(
            (
                outcome.metric,
                "-" if outcome.published is None else f"{outcome.published:+.2f}",
                f"{outcome.difference.mean:+.2f}",
                interval_text(outcome.difference.interval),
                outcome.verdict + needed_text(outcome),
                marks.get(outcome.verdict[:5], ""),
            )
            for outcome in one.outcomes
        ),
    )


def _once(views: Sequence[ColumnView]) -> list[ColumnView]:
    """Columns whose runs have been shown in an earlier table are not shown again."""
    seen: set[frozenset[str]] = set()
    kept = []
    for view in views:
        runs = frozenset(run.id for row in view.rows for run in row.runs)
        if not any(runs <= other for other in seen):
            seen.add(runs)
            kept.append(view)
    return kept


def _methods(board: Leaderboard) -> list[tuple[str, str]]:
    """The docstrings of the methods that were run: equations, options, and what differs from the paper."""
    names = sorted({run.spec["method"] for found in board.runs.values() for run in found if run.spec})
    found = []
    for name in names:
        module = inspect.getmodule(METHODS[name]) if name in METHODS else None
        found.append((name, inspect.cleandoc(module.__doc__ or "") if module else "not among the methods here"))
    return found


def _file(name: str) -> str:
    return files("ferbench.bench.board.report").joinpath(name).read_text(encoding="utf-8")
