"""The engine of a family's transformer."""

from __future__ import annotations

import torch

from cogview.checkpoints.components import Components
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.next_tokens import FILE, NextTokens
from cogview.generation.sparse import Sparse
from cogview.generation.strategies import STRATEGIES
from cogview.transformer.model import Transformer


def make_engine(
    components: Components,
    model: Transformer,
    rows: slice,
    clusters: torch.Tensor | None = None,
    sparse: Sparse | None = None,
    next_tokens: NextTokens | None = None,
) -> Engine:
    """An engine over a transformer of a family that generates tokens of the vocabulary's ``rows``."""
    decoder = pack(model, rows, components.precision)
    return Engine(
        decoder,
        components.deterministic,
        clusters=clusters,
        sparse=sparse,
        strategy=STRATEGIES[components.decoding],
        next_tokens=next_tokens,
    )


def read_next_tokens(components: Components, role: str) -> NextTokens | None:
    """The table of next tokens of a role that writes captions, where it has one."""
    entry = components.bundle.role(role)
    place = components.bundle.directory / entry.directory
    return NextTokens.read(place / FILE, entry.sequences.vocabulary.size)
