"""Tables on more than one machine: how far a table is, and results that are brought together."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ferbench.bench import terminal
from ferbench.bench.cli.app import app
from ferbench.bench.cli.options import Results, Roots, VariantName, Weights, variant, workspace
from ferbench.bench.cli.reproducing import chosen_cells, say_left_out
from ferbench.bench.terminal import say

WATCHED_EVERY_S = 5.0


@app.command("status")
def status_command(
    target: Annotated[str, typer.Argument(help="PAPER[/TABLE[/ROW[/COLUMN]]], such as remop/4 or demo.")],
    preset: Annotated[str | None, typer.Option(help="A preset of the protocol, such as paper or cpu.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; default: the table's.")] = None,
    column: Annotated[str | None, typer.Option(help="Only this column of the tables.")] = None,
    variant_name: VariantName = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every few seconds until all is done.")] = False,
    in_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    results: Results = Path("results"),
    root: Roots = None,
    weights: Weights = None,
) -> None:
    """Say how far a table is.

    For each run: whether it is finished, where it runs, since when and how far it is, what it waits for, why it failed,
    how long the rest takes by the step times of finished runs. Nothing is locked or changed.
    """
    from ferbench.bench.tables.running.plan import make_plan
    from ferbench.bench.tables.running.status import as_json, standings, summary

    place = workspace(results, root, weights)
    cells = chosen_cells(target, column)
    plan = make_plan(cells, preset or cells[0].protocol.default_preset, seeds, place, variant(variant_name))
    while True:
        found = standings(plan, place)
        if watch and terminal.console.is_terminal:
            terminal.console.clear()
        if in_json:
            say(json.dumps(as_json(found, plan)))
        else:
            for one in found:
                say(str(one))
            say_left_out(plan)
            say(summary(found, len(plan.left_out)))
        if not watch or all(one.state in ("finished", "failed") for one in found):
            return
        time.sleep(WATCHED_EVERY_S)


@app.command("merge")
def merge_command(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Results folders to bring together.")],
    results: Annotated[Path, typer.Option(help="The results folder that they are brought into.")] = Path("results"),
) -> None:
    """Bring results folders together.

    The same run in two of them is compared: kept once where all numbers and predictions agree, kept twice and said
    where they do not. A damaged run stays out, with the reason. Exit code 1 where one did.
    """
    from ferbench.bench.board.merge import merge

    counts: Counter[str] = Counter()
    for source in sources:
        for one in merge(source, results):
            counts[one.what] += 1
            if one.what != "new":
                say(f"{one.what + ':':<12} {one.name}{f': {one.why}' if one.why else ''}")
    say(f"merged into {results}: " + (", ".join(f"{count} {what}" for what, count in counts.items()) or "nothing"))
    if counts["refused"]:
        raise typer.Exit(1)
