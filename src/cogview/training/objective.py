"""The sequence loss: cross-entropy of every next token, weighted token by token (CogView, section 2.3).

The paper gives text and image tokens the same weight; the weights come with the sequences. ``softmax``:

- ``full``    over the whole vocabulary, as in the paper (its padding rows only if asked for, as released);
- ``region``  an image code among image codes, anything else among text tokens and control tokens. That is
              what the engine samples from, and it costs a fraction where one region is much the larger.

:func:`released_loss` is the released code's, which weights by the token *before* the one predicted.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.training import output_loss
from cogview.vocabulary import Vocabulary

Softmax = Literal["full", "region"]


class Head(Protocol):
    """The output matrix: hidden states (…, hidden) to logits over all rows of the vocabulary or some."""

    def __call__(self, hidden: Tensor, rows: slice | None = None) -> Tensor: ...


def split_targets(targets: Tensor, weights: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Where the loss falls: flat indices (n,) int64 of image and of other targets with a positive weight.

    Worked out on the CPU with the batch, so that the device need not wait for it.
    """
    flat, counted = targets.flatten(), weights.flatten() > 0
    image = flat < vocabulary.image_codes
    return torch.nonzero(counted & image).squeeze(1), torch.nonzero(counted & ~image).squeeze(1)


def sequence_loss(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor,
    vocabulary: Vocabulary,
    *,
    softmax: Softmax = "full",
    padding_rows: bool = False,
    places: tuple[Tensor, Tensor] | None = None,
    matrix: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted mean loss, and the plain mean of its two parts for the log.

    Args:
        head: the tied output matrix; called for the places with a positive weight only.
        hidden: (batch, length, hidden), the state each target is predicted from.
        targets: (batch, length) int64 ids; weights: (batch, length) float32, 0 where there is no loss.
        padding_rows: with ``full``, let the vocabulary's padding rows take part.
        places: what :func:`split_targets` gave, if it was worked out before.
        matrix: the output matrix itself, (rows, hidden), if ``head`` does no more than multiply by it.

    Returns:
        sum(weight * loss) / sum(weight) in fp32, and ``image_loss`` and ``text_loss`` in nats a token.
    """
    image, text = places or split_targets(targets, weights, vocabulary)
    end = vocabulary.padded_size if padding_rows else vocabulary.size
    all_rows = slice(0, end)
    rows = {
        "full": (all_rows, all_rows),
        "region": (_rows(vocabulary.images), slice(vocabulary.texts.start, end)),
    }
    states, flat, weight = hidden.flatten(0, 1), targets.flatten(), weights.flatten()
    total = (weight[image].sum() + weight[text].sum()).clamp(min=1e-9)
    mean, parts = hidden.new_zeros((), dtype=torch.float32), list[Tensor]()
    for place, region in zip((image, text), rows[softmax], strict=True):
        given, wanted, factors = states[place], flat[place] - region.start, weight[place] / total
        if matrix is not None and output_loss.suits(given, matrix):
            share, losses = output_loss.cross_entropy(given, matrix[region], wanted, factors)
        else:
            losses = F.cross_entropy(head(given, region).float(), wanted, reduction="none")
            share = (factors * losses).sum()  # autocast would lower a product of matrices
        mean = mean + share
        parts.append(losses.detach().sum() / max(1, len(losses)))
    return mean, {"image_loss": parts[0], "text_loss": parts[1]}


def _rows(ids: range) -> slice:
    return slice(ids.start, ids.stop)
