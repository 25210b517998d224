"""How many pictures change when they are drawn in other company.

    python benchmarks/same_in_any_batch.py --model pictogram --images 1000

Image i of a seed has a random stream of its own, so only rounding can change it: the largest product of a
batch of 16 is not computed in the order of a batch of 1. Every batch size draws the same pictures; counted
are those with any token different from the first size's. With ``--deterministic`` there must be none.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cogview import CogView, SamplingParams

PROMPTS = (
    "a blue monster with round eyes, red background",
    "一只戴帽子的猫",
    "flag",
    "红色的苹果，绿色的叶子",
)


def draw(model: CogView, images: int, batch_size: int, settings: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Codes (images, rows * columns), the prompts taking turns, in a few calls that mix them."""
    part, each = model.text_to_image, -(-images // len(PROMPTS))
    params = model.bundle.config.sampling("generate", SamplingParams.given(**settings))
    by_prompt = [part.requests(prompt, each, 7) for prompt in PROMPTS]
    requests = [by_prompt[i % len(PROMPTS)][i // len(PROMPTS)] for i in range(images)]
    return np.stack([image.codes for image in part.run(requests, params, batch_size)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="pictogram")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 1, 5])
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16", "int8"), default="fp32")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = CogView.from_pretrained(given.model, precision=given.precision, deterministic=given.deterministic)
    first, found = None, []
    for size in given.batches:
        start = time.perf_counter()
        codes = draw(model, given.images, size, {})
        first = codes if first is None else first
        differing = int((codes != first).any(1).sum())
        found.append(
            {"batch": size, "differing": differing, "seconds": round(time.perf_counter() - start, 1)}
        )
        print(f"batch {size:3}: {differing} of {given.images} differ, {found[-1]['seconds']} s", flush=True)
        if given.out:
            facts = {"model": given.model, "hash": model.model_hash, "images": given.images, "runs": found}
            ways = {"precision": given.precision, "deterministic": given.deterministic}
            given.out.write_text(json.dumps(facts | ways, indent=1) + "\n")


if __name__ == "__main__":
    main()
