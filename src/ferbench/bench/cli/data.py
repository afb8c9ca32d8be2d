"""From the user's files to a prepared data set and its splits."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ferbench.bench.cli.app import app
from ferbench.bench.cli.options import listed_values, numbers, values
from ferbench.bench.terminal import Terminal, say, say_text

if TYPE_CHECKING:
    from ferbench.bench.data.faceset import FaceSet
    from ferbench.bench.data.splits.draw import Split

ReaderOptions = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE of the reader, such as rule=majority; repeatable.")
]


@app.command()
def prepare(
    dataset: str,
    root: Annotated[Path | None, typer.Option(help="Folder of your copy.")] = None,
    option: ReaderOptions = None,
    partial: Annotated[bool, typer.Option(help="Accept a copy whose counts differ from the published ones.")] = False,
    verify: Annotated[
        bool, typer.Option(help="Hold every image of a prepared copy against its digest, however large it is.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Images decoded at once; default: one per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check and decode your copy of a data set.

    The report says what the copy is, whether it is complete, and how it differs from the papers' numbers.
    """
    from rich.progress import Progress

    from ferbench.bench.data.preparing.cache import cache_root
    from ferbench.bench.data.sets.readers import prepare_dataset

    with Progress(console=Terminal(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"decoding {dataset}", total=None)
        report = prepare_dataset(
            dataset, values(option, "--option"), root=root, cache=cache_root(), partial=partial,
            verify=verify, threads=threads or os.cpu_count() or 1,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    say_text(json.dumps(report.json(), indent=1) if as_json else report.text())


@app.command()
def fake(
    dataset: str,
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    images: Annotated[int, typer.Option(help="Training images per class.")] = 30,
    layout: Annotated[str, typer.Option(help="Which layout; default: the authors' own.")] = "",
) -> None:
    """Make a tiny fake copy of a data set.

    Its images are coloured shapes in the data set's own layout, so that every later step can be tried out.
    """
    from ferbench.bench.data.sets.fake import make_fake
    from ferbench.bench.data.sets.fakes import FAKES

    chosen = make_fake(FAKES, dataset, out, images, layout)
    say(f"{out}: {dataset} in layout {chosen}; next: {this_command()} prepare {dataset} --root {out} --partial")


@app.command()
def split(
    dataset: str,
    split: Annotated[str, typer.Argument(help="KIND[:key=value,...], or a split file to check.")],
    seed: int = 1,
    data_option: ReaderOptions = None,
    out: Annotated[Path | None, typer.Option(help="Write the split file here; the data set's terms cover it.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of your copy.")] = None,
) -> None:
    """Draw a split and count its classes.

    The report also names images that stand in two parts. Training draws the same split from the same seed.
    """
    from ferbench.bench.data.preparing.cache import cache_root
    from ferbench.bench.data.sets.readers import open_dataset
    from ferbench.bench.data.splits.files import write_split
    from ferbench.bench.data.splits.report import split_text

    faces = open_dataset(dataset, values(data_option, "--data-option"), root=root, cache=cache_root())
    drawn = drawn_split(split, faces, seed)
    say_text(split_text(drawn, faces))
    if out:
        write_split(drawn, faces, out)
        say(f"wrote {out}")


def drawn_split(asked: str, faces: FaceSet, seed: int) -> Split:
    """The split of a file, or of KIND[:key=value,...]; a class name as key gives that class another count."""
    from ferbench.bench.data.splits.draw import make_split
    from ferbench.bench.data.splits.files import read_split

    if Path(asked).is_file():
        return read_split(Path(asked), faces)
    kind, given = listed_values(asked, "--split")
    numbers(given, "--split")
    exceptions = {key: value for key, value in given.items() if key in faces.classes}
    rest: dict[str, Any] = {key: value for key, value in given.items() if key not in exceptions}
    return make_split(faces, kind, rest | ({"exceptions": exceptions} if exceptions else {}), seed)


def this_command() -> str:
    """ferbench as the user has to type it: by its path where the folder of the command is not on PATH."""
    import shutil

    typed = sys.argv[0]
    return typed if Path(typed).name == "ferbench" and shutil.which("ferbench") is None else "ferbench"
