"""The next steps' batches, made in a thread while the device works on this one's."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
AHEAD = 2  # batches that wait, at most


def in_order(make: Callable[[int], T], first: int, last: int, *, ahead: int = AHEAD) -> Generator[T, None, None]:
    """make(first), ..., make(last - 1), each begun up to `ahead` steps before it is asked for; 0: when it is.

    What `make` raises is raised where its batch is asked for. One thread makes them, one after the other.
    """
    if not ahead:
        yield from map(make, range(first, last))
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting: list[Future[T]] = []
        try:
            for step in range(first, last):
                started = step + len(waiting)
                waiting += [pool.submit(make, later) for later in range(started, min(step + ahead + 1, last))]
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
