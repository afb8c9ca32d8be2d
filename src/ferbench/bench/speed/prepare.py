"""Preparing data sets: images per second into a fresh cache, and the memory it takes for few and for many files.

    python -m ferbench.bench.speed.prepare [--csv results/speed.csv] [--threads 2] [--samples 3] [--many 200000]

The images are drawn; FERPlus is measured as well where $FERBENCH_FERPLUS_ROOT is set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ferbench.bench.data.preparing.prepare import prepare_listing
from ferbench.bench.data.reading.listing import DECODE_OPTIONS, Listing
from ferbench.bench.data.reading.tree import walk_images
from ferbench.bench.data.sets.fake import save_face
from ferbench.bench.data.sets.readers import prepare_dataset
from ferbench.bench.speed.record import SpeedRow, append, measured

DISTINCT = 400  # pictures drawn; a folder of more holds links to them
FOLDER = 1000  # files a folder
SIDE = 100  # of the JPEGs, as RAF-DB's aligned ones


def make_files(root: Path, count: int) -> None:
    """`count` JPEGs of 100 x 100 below `root`, some of them the same file."""
    drawn = [root / "drawn" / f"{number}.jpg" for number in range(min(count, DISTINCT))]
    for number, path in enumerate(drawn):
        save_face(path, number % 7, number, (SIDE, SIDE))
    for number in range(len(drawn), count):
        path = root / f"{number // FOLDER:04d}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        os.link(drawn[number % len(drawn)], path)


def listing(root: Path) -> Listing:
    """All images below `root`, as a set without labels."""
    ids = np.array(list(walk_images(root)))
    return Listing("drawn", root, "folder", ids, np.zeros(len(ids), np.int8), np.full(len(ids), -1), ())


def prepare_once(root: Path, cache: Path, threads: int, **options: int) -> float:
    """Seconds from the folder to the finished cache: scan, verification, decoding."""
    decoding = {name: option.default for name, option in DECODE_OPTIONS.items()} | options
    start = time.perf_counter()
    prepare_listing(listing(root), cache, decoding, threads=threads)
    return time.perf_counter() - start


def rates(threads: int, samples: int, count: int, command: str) -> list[SpeedRow]:
    """Images per second, JPEGs kept at their size, and brought to 224."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "files")
        make_files(root, count)
        for case, options in (("own size", {}), ("to 224 px", {"size": 224})):
            values = []
            for _ in range(samples):
                with tempfile.TemporaryDirectory(dir=folder) as cache:
                    values.append(count / prepare_once(root, Path(cache), threads, **options))
            name = f"{count:,} JPEGs of {SIDE} px, {case}"
            rows.append(
                measured("prepare", f"{threads} threads", name, "images/s", values, benchmark=rates, command=command)
            )
    return rows


def memory(threads: int, counts: tuple[int, ...], command: str) -> list[SpeedRow]:
    """Peak resident memory of a process that prepares so many files: it grows by the listing alone."""
    script = (  # without torch, whose libraries would be most of the figure
        "import sys; from pathlib import Path; import numpy as np\n"
        "from ferbench.bench.data.reading.listing import DECODE_OPTIONS, Listing\n"
        "from ferbench.bench.data.preparing.prepare import prepare_listing\n"
        "from ferbench.bench.data.reading.tree import walk_images\n"
        "root, ids = Path(sys.argv[1]), np.array(list(walk_images(Path(sys.argv[1]))))\n"
        "bare = Listing('drawn', root, 'folder', ids, np.zeros(len(ids), np.int8), np.full(len(ids), -1), ())\n"
        "decoding = {name: option.default for name, option in DECODE_OPTIONS.items()} | {'size': 48}\n"
        "prepare_listing(bare, Path(sys.argv[2]), decoding, threads=int(sys.argv[3]))\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            make_files(Path(folder, "files"), count)
            arguments = [sys.executable, "-c", script, f"{folder}/files", f"{folder}/cache", str(threads)]
            output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        peak = [float(output.split()[-1]) / 1024]  # unlike getrusage, without what the parent held when it forked
        case = f"{count:,} JPEGs of {SIDE} px to 48 px"
        rows.append(measured("prepare", "memory", case, "MiB", peak, benchmark=memory, command=command))
    return rows


def ferplus(threads: int, samples: int, command: str) -> list[SpeedRow]:
    """FERPlus from the user's files into a fresh cache, at its own size and with a resized copy."""
    rows = []
    for size in (48, 112, 224):
        options: Mapping[str, int] = {"size": size} if size != 48 else {}
        values = []
        for _ in range(samples):
            with tempfile.TemporaryDirectory() as cache:
                start = time.perf_counter()
                report = prepare_dataset("ferplus", options, cache=Path(cache), threads=threads)
                values.append(report.images / (time.perf_counter() - start))
        case = f"ferplus, {size} px"
        rows.append(
            measured("prepare", f"{threads} threads", case, "images/s", values, benchmark=ferplus, command=command)
        )
    return rows


def main() -> None:
    """Measure, print, and add the rows to a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="file the rows are added to")
    parser.add_argument("--threads", type=int, default=2, help="images decoded at once")
    parser.add_argument("--samples", type=int, default=3, help="repeats")
    parser.add_argument("--files", type=int, default=12_000, help="files the rates are measured on")
    parser.add_argument("--many", type=int, default=200_000, help="files the memory is measured on; 0: not at all")
    chosen = parser.parse_args()
    command = (
        f"python -m ferbench.bench.speed.prepare --threads {chosen.threads} --samples {chosen.samples} "
        f"--files {chosen.files} --many {chosen.many}"
    )
    rows = rates(chosen.threads, chosen.samples, chosen.files, command)
    if os.environ.get("FERBENCH_FERPLUS_ROOT"):
        rows += ferplus(chosen.threads, chosen.samples, command)
    if chosen.many:
        rows += memory(chosen.threads, (chosen.many // 10, chosen.many), command)
    for row in rows:
        print(f"{row.case:45} {row.variant:12} {row.median:>9} {row.unit}  ({row.p20} to {row.p80})")
    if chosen.csv:
        append(rows, chosen.csv)


if __name__ == "__main__":
    main()
