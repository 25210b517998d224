"""Four images while other programs keep every core busy: the threads that ``generate`` chooses, against one.

    python benchmarks/load.py --rounds 3

Fresh processes of ``cogview generate`` take turns, so that the load is alike for both ways. As many other
processes as there are cores (``--load``) compute without a pause. The ratio is what counts: the default may
take up to 1.3 times as long as one thread. ``--rehearse`` generates one image once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

COGVIEW = [sys.executable, "-m", "cogview.cli"]
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1_000_000))"
CHOICE = "import json, cogview.threads as t; print(json.dumps(vars(t.choose())))"
WARM_UP = 2.0  # seconds until the load shows in the counters that `generate` reads
WAYS = {"default": None, "one thread": 1}
MOST = 1.3  # times as long as one thread


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that compute until the block ends (or this process does)."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        time.sleep(WARM_UP if started else 0)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    """This one without a number of threads that would decide for ``generate``."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def seconds(model: str, images: int, threads: int | None, out: str) -> float:
    """By the clock, from the shell to the last file."""
    words = ["generate", "a red apple", "--seed", "7", "-n", str(images), "--model", model, "-o", out]
    words += ["--threads", str(threads)] if threads else []
    start = time.perf_counter()
    subprocess.run([*COGVIEW, *words], check=True, capture_output=True, env=environment())
    return time.perf_counter() - start


def chosen() -> dict[str, Any]:
    """What a process that starts now chooses, and why."""
    done = subprocess.run(
        [sys.executable, "-c", CHOICE], check=True, capture_output=True, text=True, env=environment()
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def measure(model: str, images: int, rounds: int, others: int) -> dict[str, Any]:
    """Medians of both ways under load, their ratio, and what was chosen."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    with TemporaryDirectory() as out, load(others):
        told = chosen()
        for number in range(1 + rounds):  # the first turn fills the file cache
            for name, threads in WAYS.items():
                taken = seconds(model, images, threads, out)
                if number or not rounds:
                    found[name].append(taken)
                    print(f"{name:10} {taken:7.2f} s", flush=True)
    medians = {name: round(statistics.median(times), 2) for name, times in found.items()}
    ratio = round(statistics.median(a / b for a, b in zip(*found.values(), strict=True)), 2)
    return {"chosen": told, "seconds": medians, "ratio": ratio, "most": MOST}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="pictogram")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="after one that does not count")
    parser.add_argument("--load", type=int, default=os.cpu_count(), help="other processes")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if given.rehearse:
        given.images, given.rounds = 1, 0
    import cogview

    facts = {name: getattr(given, name) for name in ("model", "images", "rounds", "load")}
    facts |= {"cores": os.cpu_count(), "hash": cogview.from_pretrained(given.model).model_hash}
    found = facts | measure(given.model, given.images, given.rounds, given.load)
    print(f"default against one thread: {found['ratio']} x ({found['chosen']['reason']})")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if given.rehearse or found["ratio"] <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
