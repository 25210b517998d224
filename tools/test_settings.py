"""Run tests under every setting that may change numbers: ``make test-settings``.

    python tools/test_settings.py                          # the quick tier, under all settings
    python tools/test_settings.py --only avx2 "4 threads"
    python tools/test_settings.py --tests tests/transformer tests/tokenizers --marked "not cuda"

Counts go to ``benchmarks/results/test_settings.json``, with the processor and the state of the code. What was
run on the same code, processor and tests is not run again. A setting that needs what the processor lacks is
written down as such. The exit code is 1 where a test failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "test_settings.json"


@dataclass(frozen=True)
class Setting:
    """Environment and options of one run; ``needs``: a flag of the processor."""

    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    needs: str = ""


SETTINGS = {
    "avx2": Setting({"ATEN_CPU_CAPABILITY": "avx2"}, needs="avx2"),
    "oneDNN avx2": Setting({"ONEDNN_MAX_CPU_ISA": "AVX2"}, needs="avx2"),
    "oneDNN avx512": Setting({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, needs="avx512bw"),
    "1 thread": Setting({"OMP_NUM_THREADS": "1"}),
    "4 threads": Setting({"OMP_NUM_THREADS": "4"}),
    "random order": Setting(options=("-p", "randomly", "-p", "no:cacheprovider")),
    "each alone": Setting(options=("-p", "tests.alone")),
}


def processor() -> dict[str, Any]:
    """Its name and what of its instructions kernels choose by."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()]
    except OSError:
        return {"name": platform.processor() or platform.machine(), "instructions": []}
    facts = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    flags = facts.get("flags", "").split()
    named = ("avx2", "avx512bw", "avx512_bf16", "avx512_fp16", "amx_tile")
    return {
        "name": " ".join(facts.get(name, "") for name in ("model name", "cpu family", "model")),
        "instructions": [flag for flag in named if flag in flags],
    }


def code() -> str:
    """The hashes of source and tests in git, with a + where they were changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    trees = [git("rev-parse", f"HEAD:{name}")[:12] for name in ("src", "tests")]
    return " ".join(trees) + ("+" if git("status", "--porcelain", "src", "tests") else "")


def counted(report: Path) -> dict[str, Any]:
    """How the tests of a ``--junitxml`` ended; the names of those that failed."""
    counts, failures = dict.fromkeys(("passed", "failed", "skipped"), 0), []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {part.tag for part in case}
        end = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[end] += 1
        if end == "failed":
            failures.append(f"{case.get('classname')}::{case.get('name')}")
    return {**counts, "failures": failures}


def run(setting: Setting, tests: list[str], marked: str) -> dict[str, Any]:
    """Run pytest under a setting."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", marked, f"--junitxml={report}"]
        environment = {**os.environ, **setting.environment}
        done = subprocess.run([*command, *setting.options, *tests], cwd=ROOT, env=environment, check=False)
        if not report.exists():
            raise SystemExit(f"pytest ended with {done.returncode} and no report")
        return counted(report) | {"seconds": round(time.monotonic() - start)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--tests", nargs="+", default=["tests"])
    parser.add_argument("--marked", default="not slow", help="of pytest's -m")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(arguments)
    machine = processor()
    what = {"processor": machine, "code": code(), "tests": asked.tests, "marked": asked.marked}
    kept = json.loads(asked.out.read_text("utf-8")) if asked.out.exists() else {}
    found = kept if all(kept.get(name) == value for name, value in what.items()) else {**what, "settings": {}}
    for name in asked.only:
        setting = SETTINGS[name]
        if name in found["settings"]:
            continue
        if setting.needs and setting.needs not in machine["instructions"]:
            found["settings"][name] = {"absent": setting.needs}
        else:
            print(f"--- {name}", flush=True)
            ran = run(setting, asked.tests, asked.marked)
            found["settings"][name] = setting.environment | {"options": " ".join(setting.options)} | ran
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    failed = {name: entry["failures"] for name, entry in found["settings"].items() if entry.get("failures")}
    print("\n".join(f"{name}: {test}" for name, tests in failed.items() for test in tests))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
