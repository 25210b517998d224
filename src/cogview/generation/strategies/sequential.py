"""Decoding one token after another."""

from __future__ import annotations

import torch

from cogview.generation.loop import Batch, OnStep


def sequential(batch: Batch, on_step: OnStep) -> None:
    """One token after another, in order; runs of known tokens are read at once."""
    tokens, read, step = batch.tokens, 0, -1
    requests = range(batch.requests)
    for step in (tokens < 0).any(1).nonzero().flatten().tolist():
        if read < step:
            batch.read(read, step)
            read = step
        sampled = batch.sample(batch.hidden, requests, [step] * len(requests))
        tokens[step] = torch.where(tokens[step] < 0, sampled, tokens[step])
        on_step(step + 1, tokens)
        if batch.stop is not None and bool((tokens[: step + 1] == batch.stop).any(0).all()):
            break
    if step + 1 < len(tokens):
        on_step(len(tokens), tokens)
