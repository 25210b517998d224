"""Run hostile cases: ``python -m tests.hostile --cases 10000 --out benchmarks/results/hostile.json``.

Case *i* of a seed is always the same one; ``--only KIND:NUMBER`` runs it alone, ``--keep`` leaves its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import pkgutil
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile import sandbox
from tests.hostile.sandbox import BAD, Outcome

SHARES = {
    "model_configs": 14, "model_weights": 8, "numbers": 3, "adapters": 2, "places": 5, "pictures": 12,
    "png_entries": 5, "archives": 9, "bombs": 1, "tables": 8, "arrow": 4, "names": 3, "recipes": 10,
    "runs": 4, "reports": 3, "shards": 7, "pickles": 6, "lmdbs": 5, "texts": 5,
}  # fmt: skip
REQUESTS = 0.15  # of all cases


@dataclass
class Counts:
    """What came of the cases."""

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    slowest: float = 0.0
    processor: float = 0.0
    largest: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    unmade: list[str] = field(default_factory=list)

    def add(self, name: str, number: int, outcome: Outcome, cases: int = 1) -> None:
        """Count a case (or the requests that one server took)."""
        self.ends.setdefault(name, Counter())[outcome.end] += cases
        self.processor += outcome.processor
        self.slowest, self.largest = max(self.slowest, outcome.seconds), max(self.largest, outcome.memory)
        if outcome.bad:
            print(f"{name}:{number} {outcome.end}", flush=True)
            told = {"case": f"{name}:{number}", "end": outcome.end, "seconds": round(outcome.seconds, 1)}
            self.failures.append(told | {"megabytes": outcome.memory >> 20, "said": outcome.said[-3000:]})

    def report(self, seed: int, seconds: float) -> dict[str, Any]:
        """Everything as JSON."""
        total: Counter[str] = sum(self.ends.values(), Counter())
        return {
            "cases": total.total(), "seed": seed,
            "seconds": round(seconds), "processor_seconds": round(self.processor),
            "python": platform.python_version(),
            "limits": {"seconds": sandbox.SECONDS, "megabytes": sandbox.MEMORY >> 20},
            **{end: total[end] for end in ("fine", "refused", *BAD)},
            "slowest_seconds": round(self.slowest, 1), "largest_megabytes": self.largest >> 20,
            "kinds": {name: dict(own) for name, own in sorted(self.ends.items())},
            "not_made": self.unmade,
            "failures": self.failures,
        }  # fmt: skip


def import_everything() -> None:
    """Load the whole package and what it loads, so that forked children need not."""
    import cogview

    for module in pkgutil.walk_packages(cogview.__path__, "cogview."):
        if not module.name.endswith(("__main__", "decode_worker", "parallel.deepspeed")):
            importlib.import_module(module.name)
    for name in ("lmdb", "pyarrow.parquet", "pyarrow.ipc", "h11", "multipart", "scipy", "matplotlib.figure"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch
    from PIL import Image

    Image.init()
    torch.set_num_threads(1)


def plan(cases: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """(kind, number, how many cases it stands for) of everything, mixed."""
    from tests.hostile.requests import AT_ONCE

    servers = max(2, round(cases * REQUESTS / AT_ONCE))
    left = max(0, cases - servers * AT_ONCE) if cases >= 1000 else cases
    chance, names = random.Random(seed), list(SHARES)
    found = [(name, AT_ONCE) for name in ("models_server", "study_server")] * (servers // 2)
    found += [(name, 1) for name in chance.choices(names, list(SHARES.values()), k=left)]
    chance.shuffle(found)
    numbers: Counter[str] = Counter()
    for name, count in found:
        yield name, numbers[name], count
        numbers[name] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop by then")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help="KIND,KIND,... or KIND:NUMBER")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the last case")
    asked = parser.parse_args()
    import_everything()
    folder = Path(tempfile.mkdtemp(prefix="cogview-hostile-"))
    try:
        counts, seconds = run_all(folder, asked)
    finally:
        if asked.keep:
            print(f"left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    report = counts.report(asked.seed, seconds)
    if asked.out:
        asked.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for failure in counts.failures:
        print(f"--- {failure['case']}: {failure['end']}\n{failure['said']}")
    print({name: value for name, value in report.items() if name not in ("failures", "kinds")})
    return 1 if counts.failures else 0


def run_all(folder: Path, asked: argparse.Namespace) -> tuple[Counts, float]:
    """Make what is made hostile, then run every case."""
    from cogview.serving.served import Models
    from tests.hostile import bases, findings, requests
    from tests.hostile.generators import KINDS

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        made = bases.make(folder / "bases")
        models = Models.load([made.family, made.editor])
    counts, began = Counts(), time.monotonic()
    if not asked.only or asked.only.startswith("findings"):
        for number, (name, make) in enumerate(findings.CASES.items()):
            place = sandbox.empty(folder / "case")
            if asked.only in (None, "findings", f"findings:{name}"):
                counts.add(
                    f"findings:{name}", number, sandbox.run(make(random.Random(0), made, place), place)
                )
    chosen = list(plan(asked.cases, asked.seed))
    if asked.only and not asked.only.startswith("findings"):
        name, _, number = asked.only.partition(":")
        whole = [(one, i, 1) for i in range(asked.cases) for one in name.split(",")]
        chosen = [(name, int(number), 1)] if number else whole
    elif asked.only:
        chosen = []
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))  # write down what there is
    for name, number, stands_for in chosen:
        if stopped or time.monotonic() - began > asked.minutes * 60:
            break
        place = sandbox.empty(folder / "case")
        chance = random.Random(f"{asked.seed} {name} {number}")
        try:
            if name == "models_server":
                work = requests.models_case(chance, models)
            elif name == "study_server":
                work = requests.study_case(chance, made, place)
            else:
                work = KINDS[name](chance, made, place)
        except Exception as error:  # a library that refuses to write what is to be read
            counts.unmade.append(f"{name}:{number}: {error!r:.200}")
            continue
        outcome = sandbox.run(work, place)
        counts.add(name, number, outcome, stands_for)
        if asked.only and asked.only.count(":"):
            print(outcome)
    return counts, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
