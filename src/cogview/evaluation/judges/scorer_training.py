"""Training of the alignment scorer: InfoNCE over real pictures and their captions in all languages.

Every batch is compared with itself, pictures with texts and texts with pictures (Radford et al., 2021).
Texts that are true of several pictures of a batch ("red apple", drawn in five styles) count as right for
each of them. Every other batch is of one source only, so that avatars are told from avatars and not from
flags. Pictures are spoiled a little as the attribute reader's are (``classifier_training.py``), so that
soft ones are read too. Every seed is fixed: equal data and threads give equal weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cogview.data.shards import Preprocessing
from cogview.data.sources import open_source
from cogview.errors import CogViewError
from cogview.evaluation.judges.captioned import Captioned, read_captioned
from cogview.evaluation.judges.classifier_training import one_cycle, spoil
from cogview.evaluation.judges.scorer import AlignmentScorer, ScorerConfig
from cogview.evaluation.plans import ScorerTraining
from cogview.tokenizers.text import TextTokenizer

Progress = Callable[[str, int, int], None]
MOST_SHARP = math.log(100.0)


def train_scorer(
    config: ScorerConfig,
    text: TextTokenizer,
    data: Captioned,
    training: ScorerTraining,
    progress: Progress | None = None,
) -> AlignmentScorer:
    """Train on ``data``.

    Raises:
        CogViewError: fewer pictures than a batch, or an empty text.
    """
    if len(data) < training.batch:
        raise CogViewError(f"{len(data)} training pictures are less than one batch of {training.batch}")
    torch.manual_seed(training.seed)
    scorer = AlignmentScorer(config, text).train()
    scorer.picture_tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = math.ceil(training.epochs * (len(data) // training.batch))
    optimizer = _optimizer(scorer, training)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    started = time.monotonic()
    for step, (rows, choices) in enumerate(batches(data, steps, training)):
        loss = _loss(scorer, data, rows, choices, training)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            scorer.sharpness.clamp_(max=MOST_SHARP)
        if progress:
            progress(f"training, loss {loss.item():.2f}", step + 1, steps)
    facts = {"pictures": len(data), "steps": steps, "seconds": round(time.monotonic() - started, 1)}
    scorer.config = config.model_copy(update={"facts": {**training.model_dump(), **facts}})
    scorer.picture_tower.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return scorer.eval()


def _optimizer(scorer: AlignmentScorer, training: ScorerTraining) -> torch.optim.Optimizer:
    """AdamW, no decay on vectors, embeddings and the sharpness."""
    kept = {id(module.weight) for module in scorer.modules() if isinstance(module, torch.nn.Embedding)}
    decayed = [p for p in scorer.parameters() if p.ndim > 1 and id(p) not in kept]
    rest = [p for p in scorer.parameters() if p.ndim <= 1 or id(p) in kept]
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.rate, betas=(0.9, 0.98))


def batches(data: Captioned, steps: int, training: ScorerTraining) -> Iterator[tuple[list[int], list[int]]]:
    """``steps`` batches of (rows, which of its texts each); every other one of one source if possible."""
    chance = np.random.default_rng(training.seed)
    sources = {
        name: [i for i, own in enumerate(data.sources) if own == name] for name in sorted(set(data.sources))
    }
    large = {name: rows for name, rows in sources.items() if len(rows) >= training.batch}
    shares = np.array([len(rows) for rows in large.values()], dtype=np.float64)
    everything = _Shuffled(range(len(data)), chance)
    own = [_Shuffled(rows, chance) for rows in large.values()]
    for step in range(steps):
        if step % 2 and len(large) > 1:
            rows = own[chance.choice(len(own), p=shares / shares.sum())].take(training.batch)
        else:
            rows = everything.take(training.batch)
        yield rows, [int(chance.integers(len(data.texts[row]))) for row in rows]


class _Shuffled:
    """Rows without repetition, shuffled anew when too few are left."""

    def __init__(self, rows: Sequence[int], chance: np.random.Generator) -> None:
        self.rows, self.chance = np.array(rows), chance
        self.waiting: list[int] = []

    def take(self, count: int) -> list[int]:
        if len(self.waiting) < count:
            self.waiting = self.chance.permutation(self.rows).tolist()
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken


def _loss(
    scorer: AlignmentScorer,
    data: Captioned,
    rows: Sequence[int],
    choices: Sequence[int],
    training: ScorerTraining,
) -> Tensor:
    images = torch.from_numpy(data.pictures[list(rows)]).permute(0, 3, 1, 2).float() / 255
    texts = [data.texts[row][choice] for row, choice in zip(rows, choices, strict=True)]
    seen, read = scorer(spoil(images) if training.spoil else images, scorer.pieces(texts))
    true = matches(texts, [data.texts[row] for row in rows])
    return contrast(scorer.sharpness.exp() * seen @ read.T, torch.from_numpy(true).T)


def matches(texts: Sequence[str], own: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """(texts, pictures): whether a text is among a picture's own."""
    places: dict[str, list[int]] = {}
    for column, found in enumerate(own):
        for text in set(found):
            places.setdefault(text, []).append(column)
    table = np.zeros((len(texts), len(own)), dtype=np.bool_)
    for row, text in enumerate(texts):
        table[row, places.get(text, [])] = True
    return table


def contrast(logits: Tensor, true: Tensor) -> Tensor:
    """InfoNCE of (pictures, texts) in both directions; several right answers share the weight equally."""
    wanted = true.to(logits.dtype)
    rows = -(wanted / wanted.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(wanted / wanted.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


def train_from_data(
    place: Path,
    text: TextTokenizer,
    training: ScorerTraining,
    size: int = 72,
    split: str = "train",
    limit: int | None = None,
    progress: Progress | None = None,
) -> AlignmentScorer:
    """Train a scorer on the captioned pictures of a split, read at ``size`` pixels.

    The scorer's ``facts`` hold the settings and the hash of what it was trained on.

    Raises:
        CogViewError: nothing to read, a picture without a caption, fewer pictures than a batch.
    """
    shape = Preprocessing(size=size, resample="box")
    config = ScorerConfig(pieces=text.pieces, text_tokenizer=text.fingerprint, preprocessing=shape)
    data = read_captioned(place, shape, split, count=limit, styled=True, progress=progress)
    scorer = train_scorer(config, text, data, training, progress)
    facts = {**scorer.config.facts, "data": data_stamp(place), "split": split, "limit": limit or 0}
    scorer.config = scorer.config.model_copy(update={"facts": facts})
    return scorer


def data_stamp(place: Path) -> str:
    """16 hex digits that change with the data's files."""
    return open_source(place).fingerprint()[:16]


def up_to_date(
    directory: Path, place: Path, training: ScorerTraining, size: int, split: str, limit: int | None
) -> bool:
    """Whether ``directory`` already holds the scorer that these settings and data would give."""
    if not (directory / "model.safetensors").is_file():
        return False
    config = AlignmentScorer.from_directory(directory).config
    wanted = {**training.model_dump(), "data": data_stamp(place), "split": split, "limit": limit or 0}
    same = all(config.facts.get(name) == value for name, value in wanted.items())
    return same and config.preprocessing.size == size


__all__ = [
    "ScorerTraining",
    "batches",
    "contrast",
    "matches",
    "train_from_data",
    "train_scorer",
    "up_to_date",
]
