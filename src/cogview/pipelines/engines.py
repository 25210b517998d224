"""Creates the generation engine of a family's transformer."""

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
    """The engine of a family's transformer; it generates only tokens of the vocabulary's ``rows``."""
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
    """The next-token table of a caption model's role; None if it has none."""
    entry = components.bundle.role(role)
    directory = components.bundle.directory / entry.directory
    return NextTokens.read(directory / FILE, entry.sequences.vocabulary.size)
