"""The released code's ``filling_sequence``: one rule for every task, a sequence with blanks to be filled.

What is drawn follows from the control tokens passed so far: text at first, picture codes after [BOI1] or
[BOI2], text without control tokens after [EOI1] or [EOI2]. Positions count again after [ROI2]. Blanks of -n
are drawn n times in parallel; a given token in the middle keeps the likeliest of the n. Chance comes from
PyTorch's generator in the released order, so that recorded runs can be repeated; to draw pictures, use the
engine.
"""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cogview.errors import CogViewError
from cogview.generation.sampling import filter_logits
from cogview.transformer.cache import KVCache
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary


class Rules:
    """What may come next, and where it stands, given the tokens so far."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.images, self.texts = vocabulary.images.stop, vocabulary.texts.stop
        self.begin, self.end = (
            {vocabulary.control(f"[{name}{i}]") for i in (1, 2)} for name in ("BOI", "EOI")
        )
        self.restart = vocabulary.control("[ROI2]")
        self.forbidden = [slice(0, self.images)]
        self.offset: int | None = None

    def see(self, token: int, index: int) -> None:
        """Take note of a given token."""
        if token in self.begin:
            self.forbidden = [slice(self.images, None)]
        elif token in self.end:
            self.forbidden = [slice(0, self.images), slice(self.texts, None)]
        elif token == self.restart:
            self.offset = index

    def positions(self, start: int, end: int) -> Tensor:
        """Of the tokens ``start`` to ``end``; [ROI2] keeps its index, the next one is 1."""
        index = torch.arange(start, end)
        return index if self.offset is None else torch.where(index > self.offset, index - self.offset, index)

    def allow(self, logits: Tensor) -> Tensor:
        """Logits (b, v) with what cannot come at -inf."""
        logits = logits.clone()
        for part in self.forbidden:
            logits[:, part] = -torch.inf
        return logits


@torch.inference_mode()
def fill(
    model: Transformer,
    vocabulary: Vocabulary,
    sequence: ArrayLike,
    settings: SamplingParams,
    generator: torch.Generator | None = None,
    record: list[Tensor] | None = None,
) -> Tensor:
    """Fill the blanks of a sequence.

    Args:
        sequence: (L,) ids; -1 is a blank, -n one that is drawn n times.
        record: gets the logits (b, vocab_size) of every call.

    Returns:
        (n, L) int64.

    Raises CogViewError where the sequence starts with a blank, needs more positions than the model has
    (counted again after [ROI2]), or asks for two numbers of drawings.
    """
    given = torch.as_tensor(sequence, dtype=torch.int64).tolist()
    beams = _check(given, model, vocabulary)
    rules, done = Rules(vocabulary), next((i for i, token in enumerate(given) if token < 0), len(given))
    for index, token in enumerate(given[:done]):
        rules.see(token, index)
    ids, scores = torch.tensor([given[:done]]), torch.zeros(1)
    cache = KVCache.allocate(model.config, 1, len(given), model.tokens.weight.dtype)
    for index in range(done, len(given)):
        if given[index] >= 0:
            best = scores.argmax()[None]
            ids, scores, cache = ids[best], scores[best], cache if len(ids) == 1 else cache.select(best)
            new = torch.tensor([[given[index]]])
            rules.see(given[index], index)
        else:
            logits = _read(model, ids, rules, cache)
            if record is not None:
                record.append(logits)
            new, gained = _draw(rules.allow(logits / settings.temperature), settings, beams, generator)
            if len(new) > len(ids):
                ids, scores, cache = ids.expand(len(new), -1), scores.expand(len(new)), cache.expand(len(new))
            scores = scores + gained
        ids = torch.cat([ids, new], 1)
    return ids


@torch.inference_mode()
def caption_scores(model: Transformer, vocabulary: Vocabulary, sequences: ArrayLike) -> Tensor:
    """The released post-selection's score of whole sequences, the higher the better.

    The sum of log p over what stands after [ROI1], image codes aside: among text pieces, control tokens and
    the vocabulary's padding. All sequences go through the model at once.

    Args:
        sequences: (b, L) ids: [BASE] [BOI1] codes [EOI1] [ROI1] text, the texts equally long.

    Returns:
        (b,) float32

    Raises CogViewError where [ROI1] is missing or stands at different places.
    """
    ids = torch.as_tensor(sequences, dtype=torch.int64)
    marks = (ids == vocabulary.control("[ROI1]")).int()
    first = marks.argmax(1)
    if not marks.any(1).all() or (first != first[0]).any():
        raise CogViewError("the sequences to score need one [ROI1] each, all at the same place")
    start = int(first[0]) + 1
    hidden = model(ids, torch.arange(ids.shape[1]).expand(len(ids), -1))
    logits = model.logits(hidden)[:, start - 1 : -1]
    logits[..., : vocabulary.images.stop] = -torch.inf
    return logits.softmax(-1).log().gather(2, ids[:, start:, None]).sum((1, 2))


def _check(given: list[int], model: Transformer, vocabulary: Vocabulary) -> int:
    """How many drawings the blanks ask for."""
    if not given or given[0] < 0:
        raise CogViewError("a sequence to be filled starts with a given token")
    restart = vocabulary.control("[ROI2]")
    before = given.index(restart) if restart in given else 0
    if max(before + 1, len(given) - before) > model.config.max_positions:
        raise CogViewError(f"{len(given)} tokens, and the model knows {model.config.max_positions} positions")
    counts = {-token for token in given if token < 0}
    if len(counts) > 1:
        raise CogViewError(f"the blanks ask for {' and '.join(map(str, sorted(counts)))} drawings at once")
    return counts.pop() if counts else 1


def _read(model: Transformer, ids: Tensor, rules: Rules, cache: KVCache) -> Tensor:
    """Logits (b, v) after all tokens; reads those that the cache lacks."""
    held, length = cache.length, ids.shape[1]
    hidden = model(ids[:, held:], rules.positions(held, length).expand(len(ids), -1), cache=cache)
    return model.logits(hidden[:, -1])


def _draw(
    logits: Tensor, settings: SamplingParams, beams: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Tokens (n, 1) and their log-probabilities (n,); one row of logits becomes ``beams``."""
    probabilities = filter_logits(logits, settings.model_copy(update={"temperature": 1.0})).softmax(-1)
    if len(logits) == 1 and beams > 1:
        tokens = torch.multinomial(probabilities, beams, replacement=True, generator=generator).T
        probabilities = probabilities.expand(beams, -1)
    else:
        tokens = torch.multinomial(probabilities, 1, generator=generator)
    return tokens, probabilities.gather(1, tokens).log()[:, 0]
