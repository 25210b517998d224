"""Run hostile cases: ``python -m tests.hostile --cases 10000 --out benchmarks/results/hostile.json``.

Case *i* of a seed is always the same one; ``--only KIND:NUMBER`` runs it alone, ``--keep`` leaves its folder.
Counts are written every few minutes. A run that was stopped goes on after its last case if ``--out`` names
the file that it left and neither seed, number of cases nor code has changed.
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
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.hostile import sandbox
from tests.hostile.sandbox import BAD, Outcome, Work

if TYPE_CHECKING:
    from cogview.serving.served import Models
    from tests.hostile.bases import Bases

SHARES = {
    "model_configs": 14, "model_weights": 8, "numbers": 3, "adapters": 2, "places": 5, "pictures": 12,
    "png_entries": 5, "archives": 9, "bombs": 1, "tables": 8, "arrow": 4, "names": 3, "recipes": 10,
    "runs": 4, "options": 12, "reports": 3, "shards": 7, "pickles": 6, "lmdbs": 5, "texts": 5,
}  # fmt: skip
REQUESTS = 0.15  # of all cases
ROOT = Path(__file__).parents[2]
SAVED_EVERY = 120.0  # seconds
Case = tuple[str, int, int]  # kind, number, how many cases it stands for


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

    def report(self) -> dict[str, Any]:
        """Everything as JSON."""
        total: Counter[str] = sum(self.ends.values(), Counter())
        return {
            "cases": total.total(), "processor_seconds": round(self.processor),
            **{end: total[end] for end in ("fine", "refused", *BAD)},
            "slowest_seconds": round(self.slowest, 1), "largest_megabytes": self.largest >> 20,
            "kinds": {name: dict(own) for name, own in sorted(self.ends.items())},
            "not_made": self.unmade,
            "failures": self.failures,
        }  # fmt: skip

    @classmethod
    def of(cls, report: dict[str, Any]) -> Counts:
        """The counts that :meth:`report` wrote."""
        return cls(
            {name: Counter(own) for name, own in report["kinds"].items()},
            report["slowest_seconds"], report["processor_seconds"], report["largest_megabytes"] << 20,
            report["failures"], report["not_made"],
        )  # fmt: skip


@dataclass
class Record:
    """The file of a run: what was asked, how far it is, what came of it."""

    path: Path | None
    asked: dict[str, Any]
    counts: Counts = field(default_factory=Counts)
    done: int = 0  # cases of the plan
    seconds: float = 0.0
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, path: Path | None, asked: dict[str, Any]) -> Record:
        """The record at ``path`` if it is of an unfinished run of the same cases and code; else a new one."""
        if path is not None and path.exists():
            found = json.loads(path.read_text("utf-8"))
            if "unfinished_after" in found and all(found.get(name) == asked[name] for name in asked):
                return cls(path, asked, Counts.of(found), found["unfinished_after"], found["seconds"])
        return cls(path, asked)

    def save(self, finished: bool) -> dict[str, Any]:
        """Write the file, if there is one, and return what is in it."""
        now = time.monotonic()
        self.seconds, self.saved = self.seconds + now - self.saved, now
        where = {} if finished else {"unfinished_after": self.done}
        limits = {"seconds": sandbox.SECONDS, "megabytes": sandbox.MEMORY >> 20}
        told = self.asked | where | {"seconds": round(self.seconds), "limits": limits} | self.counts.report()
        if self.path:
            aside = self.path.with_suffix(".part")
            aside.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            aside.replace(self.path)
        return told


def code() -> str:
    """What is tested: the hashes of ``src`` and ``tests/hostile`` in git, with a + if changed since."""
    trees = [_git("rev-parse", f"HEAD:{name}")[:12] for name in ("src", "tests/hostile")]
    return " ".join(trees) + ("+" if _git("status", "--porcelain", "src", "tests/hostile") else "")


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def import_everything() -> None:
    """Load the whole package and what it loads, so that forked children need not."""
    import cogview
    from cogview.errors import CogViewError

    for module in pkgutil.walk_packages(cogview.__path__, "cogview."):
        if not module.name.endswith(("__main__", "decode_worker", "parallel.deepspeed")):
            with contextlib.suppress(CogViewError):  # an extra that is not installed
                importlib.import_module(module.name)
    for name in ("lmdb", "pyarrow.parquet", "pyarrow.ipc", "h11", "multipart", "scipy", "matplotlib.figure"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch
    from PIL import Image

    Image.init()
    torch.set_num_threads(1)


def plan(cases: int, seed: int) -> Iterator[Case]:
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
    parser.add_argument("--minutes", type=float, default=60.0, help="stop by then; the same command goes on")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help="KIND,KIND,... or KIND:NUMBER")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the last case")
    asked = parser.parse_args()
    import_everything()
    named = {"cases_planned": asked.cases, "seed": asked.seed, "code": code(), "only": asked.only}
    record = Record.open(asked.out, named | {"python": platform.python_version()})
    if record.done:
        print(f"going on after case {record.done}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="cogview-hostile-"))
    try:
        finished = run_all(folder, asked, record)
    finally:
        if asked.keep:
            print(f"left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    report = record.save(finished)
    for failure in record.counts.failures:
        print(f"--- {failure['case']}: {failure['end']}\n{failure['said']}")
    print({name: value for name, value in report.items() if name not in ("failures", "kinds")})
    if not finished:
        print(f"stopped after {record.done} cases of the plan; the same command goes on")
    return 1 if record.counts.failures or not finished else 0


def chosen(asked: argparse.Namespace) -> list[Case]:
    """The cases that were asked for, in order."""
    from tests.hostile import findings

    found = [(f"findings:{name}", number, 1) for number, name in enumerate(findings.CASES)]
    if not asked.only:
        return found + list(plan(asked.cases, asked.seed))
    if asked.only.startswith("findings"):
        return [one for one in found if asked.only in ("findings", one[0])]
    name, _, number = asked.only.partition(":")
    if number:
        return [(name, int(number), 1)]
    return [(one, i, 1) for i in range(asked.cases) for one in name.split(",")]


def run_all(folder: Path, asked: argparse.Namespace, record: Record) -> bool:
    """Make what is made hostile, then run every case that is left; returns whether none is left."""
    from cogview.serving.served import Models
    from tests.hostile import bases

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        made = bases.make(folder / "bases")
        models = Models.load([made.family, made.editor])
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))  # write down what there is
    until = time.monotonic() + asked.minutes * 60
    for name, number, stands_for in chosen(asked)[record.done :]:
        if stopped or time.monotonic() > until:
            return False
        place = sandbox.empty(folder / "case")
        try:
            work = case(name, random.Random(f"{asked.seed} {name} {number}"), made, models, place)
        except Exception as error:  # a library that refuses to write what is to be read
            record.counts.unmade.append(f"{name}:{number}: {error!r:.200}")
        else:
            outcome = sandbox.run(work, place)
            record.counts.add(name, number, outcome, stands_for)
            if asked.only and ":" in asked.only:
                print(outcome)
        record.done += 1
        if time.monotonic() - record.saved > SAVED_EVERY:
            record.save(finished=False)
    return True


def case(name: str, chance: random.Random, made: Bases, models: Models, place: Path) -> Work:
    """What a case of this kind does in its folder."""
    from tests.hostile import findings, requests
    from tests.hostile.generators import KINDS

    if name == "models_server":
        return requests.models_case(chance, models)
    if name == "study_server":
        return requests.study_case(chance, made, place)
    if name.startswith("findings:"):
        return findings.CASES[name.removeprefix("findings:")](chance, made, place)
    return KINDS[name](chance, made, place)


if __name__ == "__main__":
    sys.exit(main())
