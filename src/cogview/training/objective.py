"""The sequence loss: cross-entropy of next tokens with a weight per token (CogView, section 2.3).

The paper gives text and image tokens the same weight; the weights come with the sequences. ``softmax``:

- ``full``    over the full vocabulary, as in the paper (optionally with its padding rows, as released);
- ``region``  image codes over image codes, other tokens over text and control tokens. The engine samples from
              these distributions, and it costs a fraction if one region is much larger.
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
    """The output projection: hidden states (…, hidden) to logits over all or some rows of the vocabulary."""

    def __call__(self, hidden: Tensor, rows: slice | None = None) -> Tensor: ...


def split_targets(targets: Tensor, weights: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Flat indices (n,) int64 of image targets and of other targets with a positive weight.

    Computed on the CPU with the batch, so that the device need not synchronize.
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
    """The weighted mean loss, and the unweighted means of its two parts for the log.

    Args:
        head: the tied output projection; only called for tokens with a positive weight.
        hidden: (batch, length, hidden), the state from which each target is predicted.
        targets: (batch, length) int64 ids; weights: (batch, length) float32, 0 where there is no loss.
        padding_rows: with ``full``, include the vocabulary's padding rows.
        places: the result of :func:`split_targets`, if already computed.
        matrix: the output matrix (rows, hidden), if ``head`` only multiplies by it.

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
        inputs, target, factors = states[place], flat[place] - region.start, weight[place] / total
        if matrix is not None and output_loss.is_supported(inputs, matrix):
            part, losses = output_loss.cross_entropy(inputs, matrix[region], target, factors)
        else:
            losses = F.cross_entropy(head(inputs, region).float(), target, reduction="none")
            part = (factors * losses).sum()  # autocast would compute factors @ losses in half precision
        mean = mean + part
        parts.append(losses.detach().sum() / max(1, len(losses)))
    return mean, {"image_loss": parts[0], "text_loss": parts[1]}


def _rows(ids: range) -> slice:
    return slice(ids.start, ids.stop)
