"""How to train on a CPU: threads of one process or a process a core, fp32 or bf16.

    python benchmarks/training_on_a_cpu.py

`cogview train` on a transformer of the default model's size (8 layers of 256, 64 text and 144 image tokens,
batches of 32, random tokens), the same run each time: one process with 1 and with all threads, and as many
processes as there are cores (`torchrun`, DDP), in fp32 and bf16. What counts is the rate that the run logs
itself, the median after the first steps; the baseline is one process with all threads in fp32. By the clock:
run it on a quiet machine. bf16 is left out where the processor has no instructions for it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from peer_training import write_data

from cogview.transformer.processor import multiplies_bf16

TEXT, GRID, BATCH = 64, 12, 32


def make_recipe(place: Path, steps: int) -> Path:
    """The run as a file, its data beside it."""
    (place / "data").mkdir()
    write_data(place / "data", 8 * BATCH, GRID)
    recipe = {
        "task": "transformer", "name": "speed", "data": str(place / "data"), "steps": steps, "device": "cpu",
        "batch_size": BATCH, "format": {"text_slots": TEXT}, "softmax": "region",
        "model": {"layers": 8, "hidden": 256, "heads": 8, "norm_relax": "none"},
        "optimizer": {"kind": "muon", "lr": 0.002},
        "intervals": {"log": 2, "evaluate": 0, "sample": 0, "checkpoint": 0},
    }  # fmt: skip
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), "utf-8")
    return path


def rate(recipe: Path, out: Path, precision: str, processes: int, threads: int) -> float:
    """Sequences a second of a run, by its own log."""
    launcher = [sys.executable, "-m"]
    settings = [f"precision={precision}", f"threads={threads}"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
        settings.append("parallel.kind=ddp")
    command = [*launcher, "cogview.cli", "train", str(recipe), "--out", str(out)]
    for setting in settings:
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    rates = [line["items_per_second"] for line in lines if line["kind"] == "train"]
    return statistics.median(rates[2:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=16, help="of each run (16)")
    parser.add_argument("--turns", type=int, default=2, help="rounds over all ways to run it (2)")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("results") / "training_on_a_cpu.json"
    )
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    ways = [
        (precision, processes, threads)
        for precision in (("fp32", "bf16") if multiplies_bf16() else ("fp32",))
        for processes, threads in dict.fromkeys(((1, cores), (1, 1), (cores, 1)))
    ]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        recipe = make_recipe(Path(place), given.steps)
        for turn in range(given.turns):
            for number, (precision, processes, threads) in enumerate(ways):
                name = f"{precision}, {processes} x {threads}"
                out = Path(place) / f"run-{turn}-{number}"
                found.setdefault(name, []).append(rate(recipe, out, precision, processes, threads))
                print(f"{name}: {found[name][-1]:.1f} sequences a second", flush=True)
    baseline = statistics.median(next(iter(found.values())))
    table: dict[str, Any] = {
        name: {
            "sequences_per_second": round(statistics.median(rates), 2),
            "times": round(statistics.median(rates) / baseline, 2),
        }
        for name, rates in found.items()
    }
    result = {"processes x threads": table, "cores": cores, "steps": given.steps, "rates": found}
    print(json.dumps(table, indent=1))
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
