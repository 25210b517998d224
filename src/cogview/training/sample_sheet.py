"""Sample images of a run: the same prompts drawn again and again, to see what the losses do not say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.sequences import Prompt, SequenceFormat
from cogview.tokenizers.loading import read_image_tokenizer
from cogview.tokenizers.text import TextTokenizer
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams


class Samples(Config):
    """What to draw: ``each`` images of every prompt, the same random streams every time.

    ``image_tokenizer`` is a directory, ``text_tokenizer`` a file: those the token shards were made with.
    """

    image_tokenizer: Path
    text_tokenizer: Path
    prompts: tuple[str, ...] = Field(min_length=1)
    each: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)
    sampling: SamplingParams = SamplingParams()


class Sampler:
    """Draws contact sheets; both tokenizers are read and compared with the data's when it is made."""

    def __init__(
        self, asked: Samples, format: SequenceFormat, image_fingerprint: str, text_fingerprint: str
    ) -> None:
        self.asked, self.format = asked, format
        self.images = read_image_tokenizer(asked.image_tokenizer).eval()
        texts = TextTokenizer.from_file(asked.text_tokenizer)
        _check("image_tokenizer", asked.image_tokenizer, self.images.fingerprint, image_fingerprint)
        _check("text_tokenizer", asked.text_tokenizer, texts.fingerprint, text_fingerprint)
        self.prompts = [self._prompt(texts.encode(prompt)) for prompt in asked.prompts]
        self.empty = self._prompt([])

    def _prompt(self, text: list[int]) -> Prompt:
        return self.format.image_prompt(text)

    def sheet(self, model: Transformer) -> Image.Image:
        """One row a prompt, ``each`` images in it."""
        asked = self.asked
        guided = asked.sampling.guidance_scale != 1
        jobs = [
            SequenceRequest(prompt, asked.seed, index, self.empty if guided else None)
            for prompt in self.prompts
            for index in range(asked.each)
        ]
        engine = Engine(pack(model, slice(0, self.format.vocabulary.image_codes)))
        with torch.autocast(model.tokens.weight.device.type, enabled=False):
            codes = np.stack([tokens for _, tokens in engine.generate(jobs, asked.sampling)])
        return contact_sheet(self.images.decode(torch.from_numpy(codes)), asked.each)


def _check(field: str, path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise CogViewError(f"samples.{field}: {path} is not the tokenizer the data were made with")


def contact_sheet(images: Tensor, columns: int) -> Image.Image:
    """Images (rows * columns, 3, H, W) in [0, 1], row by row, as one image."""
    count, _, height, width = images.shape
    grid = images.clamp(0, 1).reshape(count // columns, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    pixels = (grid.reshape(count // columns * height, columns * width, 3) * 255).round().byte()
    return Image.fromarray(pixels.numpy())
