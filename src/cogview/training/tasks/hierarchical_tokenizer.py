"""Stage one of CogView2: training an image tokenizer with several scales (CogView2, section 3,
"Tokenization").

Like :mod:`.image_tokenizer`, with LPIPS added to the reconstruction loss as in the paper; every step encodes
an image once, quantises it at every scale with the shared codebook, and decodes it with every scale's
decoder. The loss is the mean over the scales. The release does not document its loss weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from cogview.data.loader import ImageBatch
from cogview.errors import CogViewError
from cogview.tokenizers.hvqvae import HierarchicalConfig, HierarchicalTokenizer
from cogview.tokenizers.quantizers import Quantized, codebook_perplexity
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.training.recipe import Recipe
from cogview.training.task import Metrics
from cogview.training.tasks.image_tokenizer import (
    ImageTokenizerRecipe,
    ImageTokenizerTask,
    TokenizerTraining,
    _pixels,
    psnr,
)


class HierarchicalTokenizerRecipe(ImageTokenizerRecipe):
    """A recipe of stage one with several scales; with ``frozen`` only the decoders are trained."""

    task: Literal["hierarchical_tokenizer"]  # type: ignore[assignment]
    model: HierarchicalConfig = HierarchicalConfig()  # type: ignore[assignment]


class HierarchicalTraining(nn.Module):
    """The tokenizer as a submodule, as in ``TokenizerTraining``, without a discriminator."""

    discriminator = None

    def __init__(self, config: HierarchicalConfig) -> None:
        super().__init__()
        self.tokenizer = HierarchicalTokenizer(config)


def _tokenizer(model: nn.Module) -> HierarchicalTokenizer:
    return cast(HierarchicalTraining, model).tokenizer


class HierarchicalTokenizerTask(ImageTokenizerTask):
    """Trains a ``HierarchicalTokenizer``; see the module's docstring."""

    recipe_class: ClassVar[type[Recipe]] = HierarchicalTokenizerRecipe
    name: ClassVar[str] = "hierarchical_tokenizer"
    recipe: HierarchicalTokenizerRecipe

    def __init__(self, recipe: HierarchicalTokenizerRecipe) -> None:
        if recipe.loss.adversarial:
            raise CogViewError("loss.adversarial: a tokenizer with several scales is trained without one")
        if recipe.model.image_size % max(recipe.model.rates):
            raise CogViewError(
                f"model.image_size: {recipe.model.image_size} px do not divide into codes of "
                f"{max(recipe.model.rates)} px, the coarsest scale's"
            )
        super().__init__(recipe)

    def build(self) -> nn.Module:
        for lpips, _ in self.perceptual:
            lpips.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model = HierarchicalTraining(self.recipe.model)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Start from an exported or imported tokenizer of the same architecture."""
        tokenizer = HierarchicalTokenizer.from_directory(directory)
        changeable = {"image_size", "rate", "commitment"}
        actual, expected = (c.model_dump(exclude=changeable) for c in (tokenizer.config, self.recipe.model))
        if actual != expected:
            raise CogViewError(f"init: the tokenizer in {directory} has another `model:` than the recipe")
        _tokenizer(model).load_state_dict(tokenizer.state_dict())

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters, or those of the decoders if the rest is frozen."""
        trained = "tokenizer.decoders." if self.recipe.frozen else ""
        return ((name, p) for name, p in model.named_parameters() if name.startswith(trained))

    def has_unused_parameters(self, phase: str) -> bool:
        """All parameters are used in all steps; the codebook is a moving average."""
        return False

    def loss(
        self, model: nn.Module, batch: ImageBatch, step: int, phase: str
    ) -> tuple[Tensor, Metrics] | None:
        tokenizer, images = _tokenizer(model), _pixels(batch["images"])
        self._share_statistics(tokenizer.quantizer, batch, step)
        losses: list[Tensor] = []
        report: Metrics = {}
        for rate, (vectors, codebook) in zip(
            self.recipe.model.rates, self._vectors_and_losses(tokenizer, images, step), strict=True
        ):
            decoded = tokenizer.decode_vectors(vectors, rate)
            total, metrics = self._compare(cast(TokenizerTraining, model), batch, decoded, codebook, step)
            losses.append(total)
            report |= {f"{name}_{rate}": value for name, value in metrics.items()}
        return torch.stack(losses).mean(), report

    def _vectors_and_losses(
        self, tokenizer: HierarchicalTokenizer, images: Tensor, step: int
    ) -> list[tuple[Tensor, Tensor]]:
        """The input of each scale's decoder (b, h, w, dim), and the quantizer's loss.

        All scales are quantised together, so that the codebook is updated once a step.
        """
        with torch.set_grad_enabled(not self.recipe.frozen):
            scales = tokenizer.all_features(images)
        quantizer = tokenizer.quantizer
        if self.recipe.frozen:
            return [(quantizer.lookup(quantizer.encode(z)), images.new_zeros(())) for z in scales]
        if step <= self.recipe.warmup_steps:
            return [(z, 0.01 * z.pow(2).mean()) for z in scales]
        flat = cast(Quantized, quantizer(torch.cat([z.flatten(0, 2) for z in scales]))).vectors
        parts = torch.split(flat, [z.shape[:3].numel() for z in scales])
        quantised = [part.view(z.shape) for part, z in zip(parts, scales, strict=True)]
        return [(v, quantizer.loss(z, v.detach())) for v, z in zip(quantised, scales, strict=True)]

    @torch.no_grad()
    def _vectors(self, model: ImageTokenizer, seed: int, batches: int) -> Tensor:
        """Encoder outputs (n, code_dim) of all scales, of training batches sampled with ``seed``."""
        tokenizer = cast(HierarchicalTokenizer, model)
        return torch.cat(
            [
                self.ranks.gather_rows(z[:rows], batch_size).flatten(0, 2)
                for images, rows, batch_size in islice(self._sampled_batches(seed), batches)
                for z in tokenizer.all_features(images)
            ]
        )

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """PSNR, LPIPS with each network, and codebook usage, at every scale."""
        tokenizer, report = _tokenizer(model), dict[str, float]()
        items = self._validation()[: self.recipe.validation_images]
        for rate in self.recipe.model.rates if len(items) else ():
            report |= self._evaluate_scale(tokenizer, items, rate)
        return report

    def _evaluate_scale(
        self, tokenizer: HierarchicalTokenizer, items: np.typing.NDArray[np.int64], rate: int
    ) -> dict[str, float]:
        metrics: dict[str, list[float]] = {}
        counts = torch.zeros(tokenizer.codes, dtype=torch.int64)
        for chunk in np.array_split(items, max(1, len(items) // 32)):
            images = _pixels(self.cache.images(chunk).to(self.device))
            codes = tokenizer.encode(images, rate)
            decoded = tokenizer.decode(codes, rate=rate).clamp(0, 1)
            counts += torch.bincount(codes.flatten().cpu(), minlength=tokenizer.codes)
            metrics.setdefault(f"psnr_{rate}", []).extend(psnr(decoded, images).tolist())
            for lpips, term in self.perceptual:
                name = f"lpips_{term.network}_{rate}"
                metrics.setdefault(name, []).extend(lpips(decoded, images).tolist())
        report = {name: float(np.mean(values)) for name, values in metrics.items()}
        report[f"usage_{rate}"] = float((counts > 0).float().mean())
        return report | {f"perplexity_{rate}": float(codebook_perplexity(counts))}
