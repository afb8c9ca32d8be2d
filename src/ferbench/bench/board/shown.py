"""The board, comparisons and lists of runs for the terminal, on which every string is text (`bench/terminal.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group
from rich.table import Table as RichTable

from ferbench.bench.board.claims import UNTOLD, Finding, Outcome
from ferbench.bench.board.compare import Against, Comparison
from ferbench.bench.board.leaderboard import Leaderboard, Line
from ferbench.bench.board.own import OWN
from ferbench.bench.board.resolution import BOUND, UNKNOWN, Resolution
from ferbench.bench.board.run_names import Listed
from ferbench.bench.board.statistics import Interval
from ferbench.bench.tables.planning.implemented import COMPARABLE, implemented
from ferbench.protocols import NONE, Cell, Claim, Column, Protocol, Published, Table, cells

MOST_COLUMNS = 4  # on a terminal
MARKS = {"best": "^", "tie": "="}


def render(protocol: Protocol, table: Table, board: Leaderboard, selections: Sequence[str] = ("last",)) -> Group:
    """Under each row's published numbers what was measured, or why nothing was; below, what its differences carry.

    Of a table too wide for a terminal only the columns with a run are shown, and the others counted below.
    """
    ours = [line for line in board.lines if (line.paper, line.table) == (protocol.name, table.id)]
    shown = [line for line in ours if line.selection in selections]
    run = {line.column for line in shown if line.run_ids}
    columns = [column for column in table.columns if not run or len(table.columns) <= MOST_COLUMNS or column.id in run]
    title = f"{protocol.name} {table.id}: {table.caption}"
    grid = RichTable(title=title, title_justify="left", header_style="bold")
    grid.add_column("method")
    grid.add_column(" / ".join(table.metrics))
    for column in columns:
        grid.add_column(column.label, justify="right")
    for row in table.rows:
        mine = [line for line in shown if line.row == row.id]
        chosen = [cell for cell in cells(protocol, f"{table.id}/{row.id}") if cell.column in columns]
        for position, (head, *texts) in enumerate(_entries(table, chosen, mine)):
            style = "dim" if head == "published" else None
            grid.add_row(row.label if position == 0 else "", head, *texts, style=style)
        grid.add_section()
    remarks = [table.notes, *_remarks(protocol, table, shown, len(table.columns) - len(columns))]
    carried = resolution_lines(protocol, table, columns, board) if "last" in selections else []
    remarks += [*carried, f"{MARKS['best']} best of its column, {MARKS['tie']} not told from it"] if carried else []
    return Group(grid, *(remark for remark in remarks if remark))


def resolution_lines(protocol: Protocol, table: Table, columns: Sequence[Column], board: Leaderboard) -> list[str]:
    """For each column the smallest difference that its runs tell apart, a line each."""
    lines = []
    for column in columns:
        found = {
            (key.preset, key.metric): one
            for key, one in board.resolutions.items()
            if (key.paper, key.table, key.column) == (protocol.name, table.id, column.id)
        }
        for preset in dict.fromkeys(preset for preset, _ in found):
            of_preset = {metric: one for (where, metric), one in found.items() if where == preset}
            lines.append(f"{column.label} ({preset}): {resolution_text(of_preset)}")
    return lines


def resolution_text(found: dict[str, Resolution]) -> str:
    """What a column tells apart, by metric."""
    sizes = ", ".join(f"{one.pair:.1f} {metric}" for metric, one in found.items())
    some = next(iter(found.values()))
    text = f"two rows must differ by {sizes} to be told apart ({some.rows} rows, {some.seeds} seeds)"
    bound = [metric for metric, one in found.items() if one.images == BOUND]
    unknown = [metric for metric, one in found.items() if one.images == UNKNOWN]
    if bound:
        text += f"; {', '.join(bound)}: an upper bound, for these records keep no answers image by image"
    if unknown:
        text += f"; {', '.join(unknown)}: over seeds alone, other test images would add to it"
    return text


def _remarks(protocol: Protocol, table: Table, shown: Sequence[Line], left_out: int) -> list[str]:
    remarks = [f"{left_out} columns without a run are not shown"] if left_out else []
    remarks += [f"{entry.row}/{entry.column}: {entry.why}" for entry in table.absent]
    sets = {(line.row, line.column): line.ambiguous for line in shown if line.ambiguous is not None}
    remarks += [
        f"{row}/{column}: {share:.1f} % of the candidate sets have more than one class"
        for (row, column), share in sets.items()
    ]
    mixed = {(line.row, line.column): line.code for line in shown if len(line.code) > 1}
    remarks += [
        f"{row}/{column}: mixed code: its runs are by {len(codes)} versions of the method ({', '.join(codes)})"
        for (row, column), codes in mixed.items()
    ]
    presets = sorted({line.preset for line in shown} - {COMPARABLE}) if protocol.name != OWN else []
    remarks += [f"preset {preset}: its numbers are not comparable with published ones" for preset in presets]
    old = {run for line in shown if line.verifiable is False for run in line.run_ids}
    return remarks + ([f"{len(old)} runs cannot be verified: their records keep no answers"] if old else [])


def _entries(table: Table, row: Sequence[Cell], lines: Sequence[Line]) -> Iterable[list[str]]:
    """The lines of one row on the terminal: what they show, then a text per column."""
    if table.published:
        yield ["published", *(_pairs([cell.published(metric) for metric in table.metrics]) for cell in row)]
    settings = sorted({(line.variant, line.preset, line.selection) for line in lines if line.run_ids})
    for setting in settings:
        yield [" ".join(setting), *(_measured(lines, cell, setting) for cell in row)]
    if not settings:
        yield ["measured", *(why_empty(cell) for cell in row)]


def _measured(lines: Sequence[Line], cell: Cell, setting: tuple[str, str, str]) -> str:
    found = {
        line.metric: line
        for line in lines
        if line.column == cell.column.id and (line.variant, line.preset, line.selection) == setting
    }
    if not found:
        return why_empty(cell)
    texts = [
        _number(line.measured_mean, line.measured_std) + MARKS.get(line.standing, "")
        if (line := found.get(metric))
        else "-"
        for metric in cell.table.metrics
    ]
    seeds = max(line.n for line in found.values())
    return f"{' / '.join(texts)} (n={seeds})"


def why_empty(cell: Cell) -> str:
    """Why a cell has no measured number."""
    if cell.published_only and not cell.column.mean_of:
        return "published only"
    return "not run" if implemented(cell) else "not implemented yet"


def _pairs(numbers: Sequence[Published | None]) -> str:
    return " / ".join(_number(number.mean, number.std) if number else "-" for number in numbers)


def _number(average: float | None, deviation: float | None) -> str:
    if average is None:
        return "-"
    return f"{average:.2f}" if deviation is None else f"{average:.2f} ± {deviation:.2f}"


def against_table(row: str, found: Sequence[Against]) -> Group:
    """Each row less the chosen one, column by column, with its 95 % interval."""
    grid = _grid(("table", "column", "row", "runs", "metric"), ("apart", "interval", "seeds"))
    grid.title = f"difference from {row}, percentage points, with 95 % intervals"
    last: tuple[str, str] | None = None
    for one in found:
        line, difference = one.line, one.difference
        place = f"{line.paper} {line.table}"
        if last and (place, line.column_label) != last:
            grid.add_section()
        last = (place, line.column_label)
        texts = [place, line.column_label, line.row_label, f"{line.variant} {line.preset}", line.metric]
        if difference is None:
            texts += ["-", "no seed in common", "0"]
        else:
            texts += [f"{difference.mean:+.2f}", interval_text(difference.interval), str(difference.seeds)]
        style = None if difference and difference.interval and difference.interval.without_zero else "dim"
        grid.add_row(*texts, style=style)
    notes = ["An interval that holds 0 (dim) does not tell the two apart."]
    if not all(one.images for one in found if one.difference):
        notes.append("Where a record keeps no answers image by image, the interval is Student's over seeds alone.")
    return Group(grid, *notes)


def _grid(texts: Sequence[str], numbers: Sequence[str]) -> RichTable:
    """A table whose numbers are whole however narrow the terminal is: an interval may take two lines, texts several."""
    grid = RichTable(title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in texts:
        grid.add_column(name, overflow="fold")
    for name in numbers:
        longest = max(len(word) for word in [*name.split(), "+1.00]"])
        grid.add_column(name, justify="right", min_width=longest)
    return grid


def comparison_table(found: Comparison) -> Group:
    """Two sides by metric and class, and McNemar's test by seed."""
    head = [f"first:  {found.first.name}", f"second: {found.second.name}", f"seeds:  {_listed(found.seeds)}"]
    names = ["first", "second", "apart", "95 % interval"]
    names += ["bootstrap"] if found.images else []
    names += ["seeds alone"] if len(found.seeds) > 1 and found.images else []
    grid = _grid(["accuracy, %"], names)
    grid.columns[0].no_wrap = True
    for one in found.compared:
        difference = one.difference
        texts = [one.what, f"{one.first:.2f}", f"{one.second:.2f}", f"{difference.mean:+.2f}"]
        texts.append(interval_text(difference.interval) + ("" if found.images and difference.bootstrap else " *"))
        texts += [interval_text(difference.bootstrap)] if found.images else []
        texts += [interval_text(difference.seeds_only)] if "seeds alone" in names else []
        apart = difference.interval and difference.interval.without_zero
        grid.add_row(*texts, style="bold" if apart else None)
    notes = (
        [f"* {found.note or 'over seeds alone'}"] if any(not one.difference.bootstrap for one in found.compared) else []
    )
    if len(found.seeds) == 1 and found.images:
        notes.append("one seed: the intervals are over images alone; another seed may say otherwise")
    notes += [
        f"McNemar, seed {seed}: {test.first} images only the first has right, {test.second} only the second, "
        f"p = {test.p:.2g}"
        for seed, test in found.tests.items()
    ]
    return Group(*head, grid, *notes)


def claims_lines(tested: Sequence[Finding], untested: Sequence[tuple[Protocol, Claim]]) -> Iterable[str]:
    """Each claim with its tests below it, a line per metric; then the claims that no run is a test of."""
    if tested:
        yield f"{'':4}{'accuracy':8} published {'here':>6} {'95 % interval':17} verdict"
    of_claim: dict[tuple[str, str], list[Finding]] = {}
    for one in tested:
        of_claim.setdefault((one.first.protocol.name, one.claim.id), []).append(one)
    for (paper, _), tests in of_claim.items():
        yield f"{paper}: {tests[0].claim.says}"
        for one in tests:
            seeds = f"{one.seeds} seed{'s' if one.seeds > 1 else ''}"
            yield f"  {one.first.table.id}, {one.first.column.label}, {setting_text(one)}, {seeds}"
            for outcome in one.outcomes:
                published = "-" if outcome.published is None else f"{outcome.published:+.2f}"
                numbers = f"{published:>9} {outcome.difference.mean:+6.2f}"
                yield (
                    f"    {outcome.metric:<8} {numbers} {interval_text(outcome.difference.interval):<17} "
                    f"{outcome.verdict}{needed_text(outcome)}"
                )
            yield from (f"    {remark}" for remark in one.remarks)
    if any(set(one.presets) != {COMPARABLE} for one in tested):
        yield "A verdict under another preset than paper is of rows at that size, not of the paper."
    for protocol, claim in untested:
        yield f"{protocol.name}: {claim.says}: not run, `ferbench reproduce {protocol.name}/{claim.tables[0]}`"


def needed_text(outcome: Outcome) -> str:
    """Where nothing can be told, how many seeds would tell the published difference from none."""
    return f", needs {outcome.needed} seeds" if outcome.verdict == UNTOLD and outcome.needed else ""


def setting_text(one: Finding) -> str:
    """The preset or presets of a test, and the weights that its runs start from."""
    both = zip(one.presets, one.starts, strict=True)
    return " over ".join(dict.fromkeys(preset if start == NONE else f"{preset} from {start}" for preset, start in both))


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def interval_text(interval: Interval | None) -> str:
    """[low, high] with signs."""
    return f"[{interval.low:+.2f}, {interval.high:+.2f}]" if interval else "-"


def runs_lines(found: Sequence[Listed]) -> Iterable[str]:
    """A line per run: its short name, state, accuracies, when it finished, and its name."""
    for run in found:
        last = run.record.get("metrics", {}).get("last", {})
        numbers = " / ".join(f"{last[name]:.2f}" for name in ("overall", "mean") if isinstance(last.get(name), float))
        finished = str(run.record.get("finished_at", ""))[:16]
        why = f": {run.why}" if run.why else ""
        yield f"{run.short:<10} {run.state:<11} {numbers:<15} {finished:<17} {run.folder.name}{why}"
    yield f"{len(found)} runs"
