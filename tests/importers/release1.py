"""A release of CogView at a tiny size, and the command that imports it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from cogview.tokenizers.text import TextTokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview1"
SHARD = Path("20/mp_rank_00_model_states.pt")
WORDS = ["a red circle and a blue square", "seven grey birds over a hill", "一只猫", "山上的树"]


def write_release(place: Path) -> Path:
    """Files as they were released, but tiny: 64 codes, 100 text pieces, model_b in half precision."""
    shutil.copytree(FIXTURES / "ckpt_b", place / "cogview-base")
    recorded = load_file(FIXTURES / "vqvae_tiny.safetensors")
    weights = {k.removeprefix("sd."): x for k, x in recorded.items() if k.startswith("sd.")}
    torch.save(weights, place / "vqvae.pt")
    torch.save({f"module.{name}": x for name, x in weights.items()}, place / "vqvae_prefixed.pt")
    text = TextTokenizer.train(WORDS * 20, pieces=100, algorithm="bpe", byte_fallback=False)
    text.save(place / "cog-pretrain.model")
    return place


def options(release: Path, target: Path, **changes: str | None) -> list[str]:
    """The command, with some options changed or (None) left out."""
    given: dict[str, str | None] = {
        "base": str(release / "cogview-base"),
        "image-tokenizer": str(release / "vqvae.pt"),
        "text": str(release / "cog-pretrain.model"),
        "heads": "4",
        "grid": "8",
        "out": str(target),
    }
    given |= {name.replace("_", "-"): value for name, value in changes.items()}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    return ["import", "cogview", *words]
