"""kill -9 at random moments, again and again: is the curve the uninterrupted run's?

    python benchmarks/kill_resume.py --kills 100 --ranks 1 2

A tiny transformer with dropout, an averaged copy and accumulation trains on one process and on several (FSDP,
gloo), writing a checkpoint every other step behind its back. At a random moment one rank is killed, then the
others, as torchrun would; the run is resumed and killed again. After each kill, and at the end, the losses of
all its steps are held against those of a run that nobody killed. A run that reaches its last step is followed
by another. --minutes ends it earlier, for each number of ranks.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.training.parallel.world import curve, launch, recipe, run  # noqa: E402
from tests.training.test_transformer_task import VOCABULARY, caption, write_data  # noqa: E402

FIELDS: dict[str, Any] = {
    "model": {"layers": 2, "hidden": 32, "heads": 2, "hidden_dropout": 0.1},
    "accumulation": 2,
    "ema": 0.99,
    "async_checkpoints": True,
    "intervals": {"log": 1, "evaluate": 0, "sample": 0, "checkpoint": 2},
}


def moment(directory: Path) -> str:
    """What a run is at, as its directory shows."""
    if any(directory.glob("checkpoints/*.part")):
        return "saving"
    return "training" if (directory / "metrics.jsonl").exists() else "starting"


def lines(directory: Path) -> int:
    path = directory / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_once(given: Any, directory: Path, ranks: int, chance: random.Random) -> str | None:
    """Start or resume, and kill all ranks some steps later; None where the run came to its end before."""
    processes, _ = launch(ranks, (given, directory))
    goal, wait = lines(directory) + chance.randint(0, 12), chance.uniform(0, 0.05)
    while lines(directory) < goal and all(process.is_alive() for process in processes):
        time.sleep(0.002)
    time.sleep(wait)
    at = moment(directory)
    alive = all(process.is_alive() for process in processes)
    chance.shuffle(processes)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    return at if alive else None


def distance(directory: Path, reference: list[float]) -> float:
    """How far the curve so far is from the uninterrupted one."""
    found = curve(directory) if lines(directory) else []
    return max((abs(a - b) for a, b in zip(found, reference, strict=False)), default=0.0)


def kill_often(
    given: Any, work: Path, ranks: int, kills: int, seconds: float, reference: list[float]
) -> dict[str, Any]:
    chance, moments, worst, runs = random.Random(ranks), Counter[str](), 0.0, 0
    end = time.monotonic() + seconds
    while moments.total() < kills and time.monotonic() < end:
        directory, runs = work / f"killed-{runs}", runs + 1
        while moments.total() < kills and time.monotonic() < end:
            at = kill_once(given, directory, ranks, chance)
            if at is None:
                break
            moments[at] += 1
            worst = max(worst, distance(directory, reference))
            print(f"  {ranks} ranks, kill {moments.total()} while {at}: {worst:.1e}", file=sys.stderr)
        said = run(ranks, (given, directory), limit=3600)
        assert said == [""] * ranks, said
        assert len(curve(directory)) == len(reference)
        worst = max(worst, distance(directory, reference))
        shutil.rmtree(directory)
    return {"ranks": ranks, "kills": moments.total(), **moments, "runs": runs, "largest difference": worst}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--place", type=Path, default=HERE / "work" / "kill_resume")
    options = parser.parse_args()
    shutil.rmtree(options.place, ignore_errors=True)
    (options.place / "data").mkdir(parents=True)
    data = write_data(options.place / "data", caption, VOCABULARY, "1" * 16, "2" * 64)
    rows = []
    for ranks in options.ranks:
        parallel = {"kind": "fsdp"} if ranks > 1 else {}
        given = recipe(data, **FIELDS, steps=options.steps, parallel=parallel)
        work = options.place / f"ranks-{ranks}"
        work.mkdir()
        assert run(ranks, (given, work / "whole"), limit=3600) == [""] * ranks
        limits = options.kills, 60 * options.minutes
        rows.append(kill_often(given, work, ranks, *limits, curve(work / "whole")))
        print(json.dumps(rows[-1]))
    print("\n| ranks | kills | while saving | while training | while starting | largest difference |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        at = " | ".join(str(row.get(name, 0)) for name in ("saving", "training", "starting"))
        print(f"| {row['ranks']} | {row['kills']} | {at} | {row['largest difference']:.1e} |")
    shutil.rmtree(options.place)


if __name__ == "__main__":
    main()
