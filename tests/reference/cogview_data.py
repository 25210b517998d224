"""How CogView's released code prepared its data: pictures, sequences, padding, shuffling and splits.

``cogview.data.released`` reads its files. The sequences of training are in ``cogview.sequences``.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview.data.images import RELEASED_MEAN, RELEASED_STD, centre_crop, resize_shorter
from cogview.errors import CogViewError
from cogview.vocabulary import Vocabulary

LENGTH = 1089


def released_tensor(image: Image.Image, size: int) -> NDArray[np.float32]:
    """CogView's released preprocessing: (1, 3, size, size) float32, normalised.

    Differs from :func:`square` where there is transparency: the released code drops the alpha channel
    instead of laying the picture over white. The released code fails on grey and palette pictures; here
    they become RGB.
    """
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGB")
    resized = centre_crop(resize_shorter(image, size, Image.Resampling.BILINEAR), size)
    values = np.asarray(resized, dtype=np.float32)[..., :3] / np.float32(255.0)
    scaled = (values - np.array(RELEASED_MEAN, np.float32)) / np.array(RELEASED_STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def square_without_antialias(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """CogView2's released preprocessing: (size, size, 3) uint8, the centre of the picture made smaller.

    icetk shrinks tensors of bytes, which torchvision did bilinearly without antialiasing until 0.17; codes of
    pictures prepared otherwise differ from the release's. Pictures of other modes become RGB.
    """
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)  # (3, H, W)
    height, width = pixels.shape[1:]
    short = min(height, width)
    if short != size:
        long = int(size * max(height, width) / short)
        to = (size, long) if height <= width else (long, size)
        scaled = interpolate(pixels[None].float(), to, mode="bilinear", align_corners=False)[0]
        pixels = scaled.round().to(torch.uint8)
    top, left = (round((side - size) / 2.0) for side in pixels.shape[1:])
    cut: NDArray[np.uint8] = pixels[:, top : top + size, left : left + size].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(cut)


def released_sequence(
    text: NDArray[np.int64], codes: NDArray[np.int64], vocabulary: Vocabulary
) -> NDArray[np.int64]:
    """[ROI1] text [size] [BOI1] codes [EOI1], int64; ``text`` is ids of the whole vocabulary.

    The size token goes by the number of codes: [TINY] 8 x 8, [SMALL] 16 x 16, [BASE] 32 x 32, [BIG] 64 x 64.
    """
    sizes = {64: "[TINY]", 256: "[SMALL]", 1024: "[BASE]", 4096: "[BIG]"}
    if len(codes) not in sizes:
        raise CogViewError(f"{len(codes)} codes are none of CogView's pictures: {', '.join(map(str, sizes))}")
    control = vocabulary.control
    head = [control(sizes[len(codes)]), control("[BOI1]")]
    parts = [[control("[ROI1]")], text, head, codes, [control("[EOI1]")]]
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def released_padding(
    ids: NDArray[np.int64], vocabulary: Vocabulary, length: int = LENGTH
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad with [PAD] or cut to ``length``: (ids, mask), both (length,) int64; the mask is 1 on real tokens.

    As released, a long text costs the picture its last codes and [EOI1] (texts over 61 pieces at length
    1089).
    """
    kept = ids[:length]
    padded = np.full(length, vocabulary.control("[PAD]"), dtype=np.int64)
    padded[: len(kept)] = kept
    mask = np.zeros(length, dtype=np.int64)
    mask[: len(kept)] = 1
    return padded, mask


class RandomMapping:
    """The released pseudo-shuffle: ``factor`` * ``size`` indices, each mapped to some item, with repeats."""

    def __init__(self, size: int, factor: int = 200) -> None:
        self.size, self.factor = size, factor

    def __len__(self) -> int:
        return self.size * self.factor

    def __getitem__(self, index: int) -> int:
        stream = random.Random(index)
        seeds = [stream.randint(0, 2**32 - 1) for _ in range(16)]
        return int(np.random.RandomState(seeds).randint(self.size))


def released_repeats(path: str | Path) -> int:
    """How often the released code lists a file: 4 times with "t2i" in its path, 2 with "i2t", else once."""
    name = str(path)
    if "t2i" in name:
        return 4
    return 2 if "i2t" in name else 1


def split_fractions(text: str) -> tuple[float, float, float]:
    """The released ``--split`` argument ("949,50,1", "0.9") as fractions (train, validation, test)."""
    separator = next((mark for mark in (",", "/") if mark in text), None)
    try:
        values = [float(part) for part in (text.split(separator) if separator else [text])]
    except ValueError:
        values = []
    if separator is None and len(values) == 1:
        values.append(1.0 - values[0])
    values = [*values, 0.0, 0.0, 0.0][:3]
    total = sum(values)
    if total <= 0 or min(values) < 0:
        raise CogViewError(f"split {text!r}: give up to three parts, such as 949,50,1")
    return values[0] / total, values[1] / total, values[2] / total


def released_splits(size: int, text: str) -> list[tuple[int, int]]:
    """Ranges (first, past the last) of train, validation and test over ``size`` indices."""
    ends = [round(size * end) for end in itertools.accumulate(split_fractions(text))]
    return list(itertools.pairwise([0, *ends]))
