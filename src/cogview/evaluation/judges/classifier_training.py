"""Training of the attribute reader: real pictures of split "train", slightly spoiled.

Generated pictures and tokenizer reconstructions are softer than real ones; so that the reader judges what is
drawn and not how crisp it is, training pictures are shifted, blurred, coarsened, tinted and made noisy, each
a little. AdamW with a one-cycle rate; every seed fixed, so equal data and threads give equal weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.judges.attribute_corpus import (
    Attribute,
    Avatar,
    corpus_fingerprint,
    find_attributes,
    read_avatars,
    read_pictures,
)
from cogview.evaluation.judges.classifier import AttributeReader, ReaderConfig
from cogview.evaluation.plans import ReaderTraining

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Labelled:
    """Pictures (n, size, size, 3) uint8 with the facts they come with."""

    pictures: NDArray[np.uint8]
    avatars: Sequence[Avatar]

    def __post_init__(self) -> None:
        assert len(self.pictures) == len(self.avatars)

    def tensor(self, rows: Sequence[int] | slice = slice(None)) -> Tensor:
        """The pictures as float (n, 3, size, size) in [0, 1]."""
        return torch.from_numpy(self.pictures[rows]).permute(0, 3, 1, 2).float() / 255


def train_reader(
    config: ReaderConfig, data: Labelled, training: ReaderTraining, progress: Progress | None = None
) -> AttributeReader:
    """Train on ``data``, which must be of split "train" only.

    Raises:
        CogViewError: there is a picture of another split, or fewer pictures than a batch.
    """
    foreign = [avatar.key for avatar in data.avatars if avatar.split != "train"]
    if foreign:
        raise CogViewError(
            f"the classifier may only be trained on split 'train', but {foreign[0]!r} is not in it"
        )
    if len(data.avatars) < training.batch:
        raise CogViewError(
            f"{len(data.avatars)} training pictures are less than one batch of {training.batch}"
        )
    torch.manual_seed(training.seed)
    reader = AttributeReader(config).train()
    steps = math.ceil(training.epochs * (len(data.avatars) // training.batch))
    optimizer, schedule = _optimizer(reader, training, steps)
    labels = {style: _labels(config.of_style(style), data.avatars) for style in reader.styles}
    started = time.monotonic()
    for step, rows in enumerate(_batches(len(data.avatars), steps, training)):
        loss = _loss(reader, data, rows, labels, training)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if progress:
            progress(step + 1, steps, loss.item())
    facts = {"pictures": len(data.avatars), "steps": steps, "seconds": round(time.monotonic() - started, 1)}
    reader.config = config.model_copy(update={"facts": {**training.model_dump(), **facts}})
    return reader.eval()


def _optimizer(
    reader: AttributeReader, training: ReaderTraining, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, no decay on vectors; one cycle of the rate."""
    parameters = list(reader.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=training.rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    return optimizer, schedule


def one_cycle(step: int, steps: int) -> float:
    """The share of the peak rate: up in a straight line for a fifth of the steps, then down a cosine to 0."""
    rise = max(1, steps // 5)
    if step < rise:
        return (step + 1) / rise
    return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / max(1, steps - rise))


def _batches(count: int, steps: int, training: ReaderTraining) -> Iterator[list[int]]:
    """``steps`` batches of row numbers, a fresh shuffle each pass."""
    generator = torch.Generator().manual_seed(training.seed)
    waiting: list[int] = []
    for _ in range(steps):
        if len(waiting) < training.batch:
            waiting = torch.randperm(count, generator=generator).tolist()
        yield waiting[: training.batch]
        waiting = waiting[training.batch :]


def _labels(attributes: Sequence[Attribute], avatars: Sequence[Avatar]) -> dict[str, Tensor]:
    """By attribute, every avatar's class; -100 (ignored by the loss) for other styles and unread values."""
    found: dict[str, Tensor] = {}
    for attribute in attributes:
        labels = [attribute.label(a) if a.style == attribute.style else None for a in avatars]
        found[attribute.name] = torch.tensor([-100 if label is None else label for label in labels])
    return found


def _loss(
    reader: AttributeReader,
    data: Labelled,
    rows: list[int],
    labels: dict[str, dict[str, Tensor]],
    training: ReaderTraining,
) -> Tensor:
    """Mean cross-entropy over all labels of the batch, every label counting the same."""
    images = data.tensor(rows)
    if training.spoil:
        images = spoil(images)
    found = reader(
        images.contiguous(memory_format=torch.channels_last), [data.avatars[row].style for row in rows]
    )
    index = torch.tensor(rows)
    total, count = torch.zeros(()), 0
    for style, (own, logits) in found.items():
        for name, values in logits.items():
            wanted = labels[style][name][index[own]]
            total = total + F.cross_entropy(
                values, wanted, reduction="sum", ignore_index=-100, label_smoothing=training.smoothing
            )
            count += int((wanted >= 0).sum())
    return total / max(1, count)


def spoil(images: Tensor) -> Tensor:
    """Slightly spoiled copies of (batch, 3, H, W) in [0, 1]."""
    images = _shift(images, 2)
    parts = torch.tensor_split(images, 4)
    soft = [parts[0], _blur(parts[1], 0.4), _blur(parts[2], 0.8), _coarse(parts[3])]
    images = torch.cat([part for part in soft if len(part)])
    batch = len(images)
    gain = 1 + 0.03 * torch.randn(batch, 3, 1, 1)
    noise = torch.randn_like(images) * (0.03 * torch.rand(batch, 1, 1, 1))
    return (images * gain + noise).clamp(0, 1)


def _shift(images: Tensor, most: int) -> Tensor:
    """Each picture moved by up to ``most`` pixels in both directions, its border repeated."""
    side = images.shape[-1]
    wide = F.pad(images, (most,) * 4, mode="replicate")
    places = torch.randint(0, 2 * most + 1, (len(images), 2)).tolist()
    moved = [picture[:, y : y + side, x : x + side] for picture, (y, x) in zip(wide, places, strict=True)]
    return torch.stack(moved)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of 5 x 5 pixels."""
    line = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    wide = F.pad(images, (2,) * 4, mode="replicate")
    return F.conv2d(wide, kernel.expand(3, 1, 5, 5), groups=3)


def _coarse(images: Tensor) -> Tensor:
    """What strong JPEG does: half the colour resolution and blocks of 8 whose fine detail is weakened."""
    grey = images.mean(1, keepdim=True)
    side = tuple(images.shape[-2:])
    colour = F.interpolate(F.avg_pool2d(images - grey, 2), side, mode="bilinear")
    smooth = F.interpolate(F.avg_pool2d(grey, 2), side, mode="nearest")
    return 0.7 * grey + 0.3 * smooth + colour


def train_from_corpus(
    corpus: Path,
    training: ReaderTraining,
    size: int = 72,
    source: str | None = "dice",
    rare: int = 20,
    progress: Progress | None = None,
) -> AttributeReader:
    """Learn what the captions of split "train" state and train a reader of it on their pictures.

    The reader's ``facts`` hold the settings, the corpus's fingerprint, and the share it reads right on split
    "val" where there is one.

    Raises:
        CogViewError: the corpus cannot be used (see ``avatars.read_avatars``) or states nothing.
    """
    avatars = read_avatars(corpus, source)
    members = {split: [a for a in avatars if a.split == split] for split in ("train", "val")}
    attributes = find_attributes(members["train"], rare)
    if not attributes:
        raise CogViewError(f"{corpus}: no caption of split 'train' states an attribute of the meta column")
    config = ReaderConfig(attributes=attributes, preprocessing=Preprocessing(size=size, resample="box"))
    data = {split: load_labelled(corpus, own, config.preprocessing) for split, own in members.items() if own}
    reader = train_reader(config, data["train"], training, progress)
    facts = {
        **reader.config.facts,
        "corpus": corpus_fingerprint(avatars),
        "source": source or "",
        "rare": rare,
    }
    if "val" in data:
        facts["val_pictures"] = len(data["val"].avatars)
        facts["val_accuracy"] = round(accuracy(reader, data["val"]), 4)
    reader.config = reader.config.model_copy(update={"facts": facts})
    return reader


def load_labelled(corpus: Path, avatars: Sequence[Avatar], preprocessing: Preprocessing) -> Labelled:
    """The pictures of ``avatars``, in their order."""
    row = {avatar.key: i for i, avatar in enumerate(avatars)}
    pictures = np.zeros((len(avatars), preprocessing.size, preprocessing.size, 3), dtype=np.uint8)
    for key, picture in read_pictures(corpus, row, preprocessing):
        pictures[row[key]] = picture
    return Labelled(pictures, avatars)


def up_to_date(
    directory: Path, corpus: Path, training: ReaderTraining, size: int, source: str | None, rare: int = 20
) -> bool:
    """Whether ``directory`` already holds the reader that these settings and this corpus would give."""
    if not (directory / "model.safetensors").is_file():
        return False
    config = AttributeReader.from_directory(directory).config
    wanted = {**training.model_dump(), "source": source or "", "rare": rare}
    same = config.image_size == size and all(
        config.facts.get(name) == value for name, value in wanted.items()
    )
    return same and config.facts.get("corpus") == corpus_fingerprint(read_avatars(corpus, source))


def accuracy(reader: AttributeReader, data: Labelled, batch: int = 128) -> float:
    """The share of labels (absence included) that ``reader`` reads right off real pictures."""
    right = total = 0
    for first in range(0, len(data.avatars), batch):
        avatars = data.avatars[first : first + batch]
        rows = slice(first, first + batch)
        for avatar, read in zip(
            avatars, reader.read(data.tensor(rows), [a.style for a in avatars]), strict=True
        ):
            wanted = {a.name: a.label(avatar) for a in reader.config.of_style(avatar.style)}
            known = [name for name, label in wanted.items() if label is not None]
            right += sum(read[name] == wanted[name] for name in known)
            total += len(known)
    return right / max(1, total)
