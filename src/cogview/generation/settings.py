"""How tokens are sampled, as a validated configuration; read without PyTorch."""

from __future__ import annotations

from pydantic import Field

from cogview.config import Config
from cogview.errors import CogViewError

MAX_SEED = 2**63 - 1


class Sampling(Config):
    """How tokens are drawn.

    temperature: divides the logits; below 1 is safer, above 1 wilder. top_k: keep the k likeliest tokens (0:
    all). top_p: then keep the likeliest tokens that together reach this probability (1 or 0: all). guidance:
    classifier-free guidance; 1 is none, more follows the prompt more closely at twice the work. clusters:
    keep the k likeliest clusters of codes (0: no cluster sampling), cluster_temperature: divides the logits
    once more inside a cluster. emphasis: added to all attention scores towards the text (0: none).
    """

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, ge=0, le=1)
    guidance: float = Field(1.0, ge=0, allow_inf_nan=False)
    clusters: int = Field(0, ge=0)
    cluster_temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    emphasis: float = Field(0.0, ge=-100, le=100)


def check_seed(seed: int) -> int:
    """The seed; CogViewError out of range."""
    if not 0 <= seed <= MAX_SEED:
        raise CogViewError(f"the seed {seed} is out of range; take one from 0 to {MAX_SEED}")
    return seed
