"""Work spread over Ray's workers: every part once, whoever dies."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cogview.errors import CogViewError
from cogview.ray_cluster import connected, spread

pytestmark = pytest.mark.slow
KILLED = (1, 4, 5)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with connected(workers=2) as ray:
        yield ray


def killing(folder: Path) -> Callable[[int], int]:
    """A worker that is killed the first time it is given one of some parts, and says which it began."""
    (folder / f"worker-{os.getpid()}").touch()

    def run(part: int) -> int:
        if part in KILLED and not (folder / f"killed-{part}").exists():
            (folder / f"killed-{part}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return part * part

    return run


def test_every_part_is_done_once_whatever_workers_are_killed(ray: Any, tmp_path: Path) -> None:
    found = list(spread(ray, partial(killing, tmp_path), range(8), 2))
    assert Counter(found) == Counter(number**2 for number in range(8))
    assert len(list(tmp_path.glob("worker-*"))) == 2 + len(KILLED)


def refusing() -> Callable[[int], int]:
    def run(part: int) -> int:
        raise CogViewError("the folder is full", field="out")

    return run


def test_an_error_of_a_worker_is_raised_here(ray: Any) -> None:
    with pytest.raises(CogViewError, match="the folder is full") as caught:
        list(spread(ray, refusing, [1]))
    assert caught.value.field == "out"


def test_connections_are_shared(ray: Any) -> None:
    with connected("nowhere:1") as again:
        assert again is ray
    assert ray.is_initialized()
