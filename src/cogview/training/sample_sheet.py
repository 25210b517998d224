"""Sample images of a run: the same prompts at each interval, to show what the losses do not."""

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
    """The samples of a recipe: ``each`` images per prompt, with the same random streams every time.

    ``image_tokenizer`` is a directory, ``text_tokenizer`` a file: those with which the data were tokenised.
    """

    image_tokenizer: Path
    text_tokenizer: Path
    prompts: tuple[str, ...] = Field(min_length=1)
    each: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)
    sampling: SamplingParams = SamplingParams()


class Sampler:
    """Generates contact sheets; on construction both tokenizers are compared with the data's."""

    def __init__(
        self, config: Samples, format: SequenceFormat, image_fingerprint: str, text_fingerprint: str
    ) -> None:
        self.config, self.format = config, format
        self.image_tokenizer = read_image_tokenizer(config.image_tokenizer).eval()
        text_tokenizer = TextTokenizer.from_file(config.text_tokenizer)
        _check("image_tokenizer", config.image_tokenizer, self.image_tokenizer.fingerprint, image_fingerprint)
        _check("text_tokenizer", config.text_tokenizer, text_tokenizer.fingerprint, text_fingerprint)
        self.prompts = [self._prompt(text_tokenizer.encode(prompt)) for prompt in config.prompts]
        self.empty = self._prompt([])

    def _prompt(self, text: list[int]) -> Prompt:
        return self.format.image_prompt(text)

    def sheet(self, model: Transformer) -> Image.Image:
        """A contact sheet with one row of ``each`` images per prompt."""
        config = self.config
        guided = config.sampling.guidance_scale != 1
        requests = [
            SequenceRequest(prompt, config.seed, index, self.empty if guided else None)
            for prompt in self.prompts
            for index in range(config.each)
        ]
        engine = Engine(pack(model, slice(0, self.format.vocabulary.image_codes)))
        with torch.autocast(model.tokens.weight.device.type, enabled=False):
            codes = np.stack([tokens for _, tokens in engine.generate(requests, config.sampling)])
        return contact_sheet(self.image_tokenizer.decode(torch.from_numpy(codes)), config.each)


def _check(field: str, path: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise CogViewError(f"samples.{field}: {path} is not the tokenizer the data were made with")


def contact_sheet(images: Tensor, columns: int) -> Image.Image:
    """Images (rows * columns, 3, H, W) in [0, 1], row by row, as one image."""
    count, _, height, width = images.shape
    grid = images.clamp(0, 1).reshape(count // columns, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    pixels = (grid.reshape(count // columns * height, columns * width, 3) * 255).round().byte()
    return Image.fromarray(pixels.numpy())
