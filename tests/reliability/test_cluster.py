"""A table on two machines of a Ray cluster, whatever is killed meanwhile: bit for bit what one process makes of it.

FERBENCH_KILLS: how many kills; FERBENCH_CELLS: how many tiny cells.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from reliability.clusters import Machines, until
from reliability.lives import amount, assert_same, command, row, write_protocol
from reliability.needy import write_needy

from ferbench.bench.tables.running.watched import NOTE, read_note
from ferbench.bench.training.recording import records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MINUTES = {"epochs": 20, "steps_per_epoch": 10, "batch_size": 8}


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    found = Machines.start()
    yield found
    found.end()


def said(folder: Path) -> str:
    return (folder / "log.txt").read_text(errors="replace")[-3000:]


def step_of(checkpoint: Path) -> int:
    import torch

    try:
        return int(torch.load(checkpoint, weights_only=True, mmap=True)["step"])
    except FileNotFoundError:
        return 0


def test_kills_at_any_instant(tmp_path: Path, machines: Machines) -> None:
    """Of processes that train, of the one that writes, of a machine, of the command: none of it is seen in the results.

    After each kill a run goes on after the step that had come home.
    """
    write_needy(tmp_path / "needy", stage_epochs=20, **MINUTES)
    asked = ("needy", "--seeds", "1", "--results")
    alone = machines.command(tmp_path, "reproduce", *asked, "alone", "--jobs", "1")
    assert alone.wait() == 0, said(tmp_path)
    kills, rng, began = Counter[str](), random.Random(os.getpid()), time.monotonic()
    rounds = 0
    while kills.total() < amount("KILLS", 12):
        rounds += 1
        results = tmp_path / f"k{rounds}" / "runs"
        driver, before = machines.reproduce(tmp_path, *asked, f"k{rounds}"), (0, 0)
        while driver.poll() is None:
            if rng.random() < 0.8:  # else at once: before anything is saved, or while all begins again
                until(partial(is_further, driver, results, before))
            time.sleep(rng.uniform(0.1, 3.0))
            before = progress(results)
            kind = rng.choice(["worker"] * 4 + ["keeper", "machine", "command"])
            home = {path: step_of(path) for path in results.glob("*/checkpoint.pt")}
            if kind == "machine":
                machines.kill_node()
            elif kind == "command":
                driver.kill()
                driver.wait()
                driver = machines.reproduce(tmp_path, *asked, f"k{rounds}")
            elif victims := machines.workers(b"Keeper" if kind == "keeper" else b"synthetic"):
                os.kill(rng.choice(victims), signal.SIGKILL)
            else:
                continue
            kills[kind] += 1
            print(f"{time.monotonic() - began:5.0f} s: killed {kind}; at home: {sorted(home.values())}", flush=True)
            assert all(step_of(path) >= step for path, step in home.items()), "what had come home is lost"
            if kills.total() >= amount("KILLS", 12):
                break
        assert driver.wait() == 0, said(tmp_path)
        assert_same(tmp_path / "alone" / "runs", results)
    print(f"{kills.total()} kills ({dict(kills)}) in {rounds} tables, {time.monotonic() - began:.0f} s: no run differs")


def progress(results: Path) -> tuple[int, int]:
    """Runs that are finished, and steps that are saved."""
    return len(list(results.glob("*/record.json"))), sum(map(step_of, results.glob("*/checkpoint.pt")))


def is_further(driver: subprocess.Popen[str], results: Path, before: tuple[int, int]) -> bool:
    return driver.poll() is not None or progress(results) > before


def test_a_stop_saves_everything_and_the_command_goes_on(tmp_path: Path, machines: Machines) -> None:
    """Ctrl-C: what is trained is saved at the step it is at, also between two checkpoints. SIGTERM to one process that
    trains, as a machine gives before it goes: its run is saved, and goes on."""
    write_protocol(tmp_path / "two", [row("vanilla"), row("fixmatch"), row("remop")], **MINUTES)
    assert command("reproduce", "two", "--results", "alone", "--jobs", "1", folder=tmp_path).wait(500) == 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        results = tmp_path / number.name / "runs"
        driver = machines.reproduce(tmp_path, "two", "--results", number.name, save_every=1000)
        until(partial(two_past, results, 5), said=lambda: said(tmp_path))
        before = sorted(notes(results))
        driver.send_signal(number)
        assert driver.wait(200) == code, said(tmp_path)
        assert sorted(map(step_of, results.glob("*/checkpoint.pt"))) >= before and not list(results.glob(f"*/{NOTE}"))
        assert "all state is saved" in said(tmp_path) and "Traceback" not in said(tmp_path)
        again = machines.reproduce(tmp_path, "two", "--results", number.name, save_every=1000)
        until(partial(two_past, results, max(before) + 5), said=lambda: said(tmp_path))
        saved = progress(results)
        os.kill(machines.workers(b"synthetic")[0], signal.SIGTERM)
        until(partial(is_further, again, results, saved), said=lambda: said(tmp_path))
        assert not list(results.glob("*/record.json")), "what came home was saved on the signal"
        assert again.wait(500) == 0, said(tmp_path)
        assert_same(tmp_path / "alone" / "runs", results)


def two_past(results: Path, step: int) -> bool:
    return len([note for note in notes(results) if note > step]) == 2


def notes(results: Path) -> list[int]:
    return [note["step"] for path in results.glob(f"*/{NOTE}") if (note := read_note(path))]


def test_three_commands_share_a_results_folder(tmp_path: Path, machines: Machines) -> None:
    """Two with the cluster and one without: each run is trained once, and all three end with the whole table."""
    write_needy(tmp_path / "needy", epochs=5, steps_per_epoch=20)
    asked = ("needy", "--seeds", "2", "--results")
    assert machines.command(tmp_path, "reproduce", *asked, "alone", "--jobs", "1").wait() == 0, said(tmp_path)
    (tmp_path / "log.txt").unlink()
    together = [machines.reproduce(tmp_path, *asked, "r") for _ in range(2)]
    together.append(machines.command(tmp_path, "reproduce", *asked, "r", "--jobs", "1"))
    assert [one.wait() for one in together] == [0, 0, 0], said(tmp_path)
    assert_same(tmp_path / "alone" / "runs", tmp_path / "r" / "runs")
    trained = re.findall(r"^(small/\S+ seed \d): overall", (tmp_path / "log.txt").read_text(), re.MULTILINE)
    assert len(trained) == len(list((tmp_path / "r" / "runs").iterdir())) == 14
    assert "nothing is trained" not in said(tmp_path)


def test_faults_are_of_one_cell_and_are_not_tried_again(tmp_path: Path, machines: Machines) -> None:
    """A loss that is not finite, and what waits for that run; a machine without the code; all others are done."""
    rows = [row("vanilla", "recipe_options = { lr = 1e30 }"), row("ssfer", 'after = { method = "vanilla" }')]
    rows[1] = rows[1].replace('method = "ssfer"\n', 'method = "ssfer"\nrecipe_options = { lr = 1e30 }\n', 1)
    write_protocol(tmp_path / "table", [*rows, row("fixmatch"), row("remop")])
    assert machines.reproduce(tmp_path, "table").wait() == 2
    text = (tmp_path / "log.txt").read_text()
    assert text.count("ferbench: small/1/vanilla/c seed 1: ") == 1 and "not finite" in text and "Traceback" not in text
    assert "1/vanilla/c seed 1: failed: " in text and "1/ssfer/c seed 1: waiting for " in text
    assert "2 of 4 runs are not finished; the lines above say why" in text
    assert len(list(tmp_path.glob("results/runs/*/record.json"))) == 2


def test_many_tiny_cells(tmp_path: Path, machines: Machines) -> None:
    """What a cell costs besides its training, and the memory of the command and of the process that writes."""
    cells = amount("CELLS", 200)
    write_protocol(tmp_path / "table", [row("vanilla")], epochs=1)
    driver = machines.reproduce(tmp_path, "table", "--seeds", cells, save_every=60)
    looks: list[tuple[float, int, int, int]] = []  # when, cells done, MiB of the command and of who writes
    while driver.poll() is None:
        done = len(list(tmp_path.glob("results/runs/*/record.json")))
        keepers = machines.workers(b"Keeper")
        if cells // 4 <= done < cells and keepers:
            looks.append((time.monotonic(), done, resident_mib(driver.pid), resident_mib(keepers[0])))
        time.sleep(0.5)
    assert driver.wait() == 0, said(tmp_path)
    found = [records.read_json(path) for path in tmp_path.glob("results/runs/*/record.json")]
    assert len(found) == cells
    training = sum(record["seconds"] for record in found) / cells
    each = 2 * (looks[-1][0] - looks[0][0]) / (looks[-1][1] - looks[0][1])  # on two CPUs
    command_s, keeper_s = (max(look[part] for look in looks) - looks[0][part] for part in (2, 3))
    print(
        f"{looks[-1][1] - looks[0][1]} cells: {each:.2f} s of a CPU each, {training:.2f} s of it in the loop; memory "
        f"grew by {command_s} and {keeper_s} MiB from {looks[0][2:]} MiB"
    )
    assert command_s < 40 and keeper_s < 40


def resident_mib(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
