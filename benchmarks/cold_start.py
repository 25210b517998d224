"""From the shell to the first image: fresh processes of ``cogview generate``, against ``import torch`` alone.

    python benchmarks/cold_start.py --repeats 5

Medians by the clock and of processor time, in turns, so that what else the machine does touches all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COGVIEW = "from cogview.cli.app import main; main()"


def commands(model: str, threads: int, out: str) -> dict[str, list[str]]:
    """What is started, by name."""
    draw = ["generate", "a red apple", "--seed", "7", "-o", out, "--threads", str(threads), "--model", model]
    return {
        "import torch": [sys.executable, "-c", "import torch"],
        "--help": [sys.executable, "-c", COGVIEW, "--help"],
        "one image": [sys.executable, "-c", COGVIEW, *draw],
        "four images": [sys.executable, "-c", COGVIEW, *draw, "-n", "4"],
    }


def run(command: list[str]) -> tuple[float, float]:
    """Seconds of a process by the clock and of processor time."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="pictogram")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    import cogview

    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as out:
        for _ in range(1 + given.repeats):  # the first turn fills the file cache
            for name, command in commands(given.model, given.threads, out).items():
                found.setdefault(name, []).append(run(command))
    times: dict[str, Any] = {}
    for name, runs in found.items():
        wall, used = (statistics.median(one) for one in zip(*runs[1:], strict=True))
        times[name] = {"seconds": round(wall, 2), "processor_seconds": round(used, 2)}
        print(f"{name:12} {wall:6.2f} s, {used:5.2f} s of processor time", flush=True)
    if given.out:
        facts = {
            "command": f"python benchmarks/cold_start.py {' '.join(sys.argv[1:])}".split(" --out")[0],
            "model": given.model,
            "hash": cogview.from_pretrained(given.model).model_hash,
            "threads": given.threads,
        }
        given.out.write_text(json.dumps(facts | {"times": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
