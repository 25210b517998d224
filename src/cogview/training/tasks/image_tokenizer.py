"""Stage one: training an image tokenizer (CogView, section 2.2; with an adversarial loss: VQGAN, section
3.4).

The loss consists of ``l2`` and ``l1`` between pixels in [-1, 1], LPIPS with any number of networks (an
expensive one on part of the batch), the quantizer's loss and, from ``adversarial_start`` on, a patch
discriminator's loss.

The first ``warmup_steps`` run without quantisation; the codebook is then initialized to the k-means centres
of the encoder's outputs, so that all of it is used. Dead codes are restarted until ``restart_until``.

On several ranks each has some images of every batch, and statistics over the batch are summed: those of the
codebook, and the gradients that weight the adversarial loss. Random numbers are seeded by step and image, so
that they do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from cogview.config import Config
from cogview.data.image_cache import ImageCache
from cogview.data.loader import ImageBatch, ImageLoader
from cogview.errors import CogViewError
from cogview.files import write_image
from cogview.tokenizers.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from cogview.tokenizers.perceptual import LPIPS, Network
from cogview.tokenizers.quantizers import (
    GumbelQuantizer,
    Quantized,
    Quantizer,
    codebook_perplexity,
    kmeans,
)
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.training.recipe import Recipe
from cogview.training.rng import seed_of, seeded
from cogview.training.task import Metrics, State, Task


class PerceptualTerm(Config):
    """One LPIPS term: ``weight`` times its mean over the first ``share`` of every batch.

    ``crop``: compare a random square of this side in pixels instead of the full image, which is cheaper.
    """

    weights: Path
    network: Network = "vgg16"
    weight: float = Field(0.35, ge=0)
    share: float = Field(1.0, gt=0, le=1)
    crop: int | None = Field(None, ge=32)


RESTART_UNTIL, ADVERSARIAL_START = 0.8, 0.5  # fractions of all steps


class TokenizerLoss(Config):
    """Weights of the loss terms (pixels in [-1, 1]); with ``adversarial`` 0 there is no discriminator.

    ``adversarial_start``: the fraction of all steps after which the adversarial loss is used.
    """

    l2: float = Field(4.0, ge=0)
    l1: float = Field(1.0, ge=0)
    quantizer: float = Field(0.5, ge=0)
    perceptual: tuple[PerceptualTerm, ...] = ()
    adversarial: float = Field(0.0, ge=0)
    adversarial_start: float = Field(ADVERSARIAL_START, ge=0, le=1)

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if not self.adversarial and self.adversarial_start != ADVERSARIAL_START:
            raise ValueError("adversarial_start does nothing where adversarial is 0; leave it out")
        return self


class ImageTokenizerRecipe(Recipe):
    """A recipe of stage one; ``data`` is an image cache (``cogview data cache``) of the model's image size.

    ``frozen``: parts that are not trained; ``[encoder, quantizer]`` improves a decoder without changing
    stored tokens. ``restart_every`` 0 disables restarts of dead codes.
    """

    task: Literal["image_tokenizer"]
    model: ImageTokenizerConfig = ImageTokenizerConfig()
    data: Path
    weights: dict[str, float] = Field(default_factory=dict)
    validation: str = "val"
    validation_images: int = Field(256, ge=1)
    loss: TokenizerLoss = TokenizerLoss()
    warmup_steps: int = Field(400, ge=0)
    restart_every: int = Field(50, ge=0)
    restart_below: float = Field(0.03, ge=0)
    restart_until: float = Field(RESTART_UNTIL, ge=0, le=1)
    frozen: tuple[Literal["encoder", "quantizer"], ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.frozen and (self.init is None or set(self.frozen) != {"encoder", "quantizer"}):
            raise ValueError("frozen: encoder and quantizer are frozen together, and need init to start from")
        if self.warmup_steps >= self.steps and not self.frozen:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) leaves none of the {self.steps} steps")
        if not self.restart_every and self.restart_until != RESTART_UNTIL:
            raise ValueError("restart_until does nothing where restart_every is 0; leave it out")
        return self


class TokenizerTraining(nn.Module):
    """The tokenizer and, with an adversarial loss, its discriminator."""

    def __init__(self, config: ImageTokenizerConfig, adversarial: bool) -> None:
        super().__init__()
        self.tokenizer = ImageTokenizer(config)
        self.discriminator = PatchDiscriminator() if adversarial else None


def crop_at(size: Sequence[int], side: int | None, seed: int) -> tuple[slice, ...]:
    """The index of a random square of ``side`` pixels in images (batch, 3, H, W) of ``size`` (H, W).

    The full image if ``side`` is None or not smaller than the image.
    """
    generator = torch.Generator().manual_seed(seed)
    starts = [
        int(torch.randint(max(1, full - (side or full) + 1), (1,), generator=generator)) for full in size
    ]
    return (
        slice(None),
        slice(None),
        *(slice(start, start + (side or full)) for start, full in zip(starts, size, strict=True)),
    )


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB (batch,) of images (batch, 3, H, W) in [0, 1]."""
    return -10 * torch.log10((a - b).pow(2).mean((1, 2, 3)).clamp(min=1e-10))


class ImageTokenizerTask(Task):
    """Trains an ``ImageTokenizer``; see the module's docstring."""

    recipe_class: ClassVar[type[Recipe]] = ImageTokenizerRecipe
    name: ClassVar[str] = "image_tokenizer"
    parallel = ("ddp",)  # convolutions have no blocks to shard
    unit = "images"
    recipe: ImageTokenizerRecipe

    def __init__(self, recipe: ImageTokenizerRecipe) -> None:
        self.recipe = recipe
        self.perceptual = [
            (LPIPS.from_file(term.weights, term.network), term) for term in recipe.loss.perceptual
        ]
        self.phases = ("model", "discriminator") if recipe.loss.adversarial else ("model",)
        self.decoded: Tensor | None = None

    @cached_property
    def cache(self) -> ImageCache:
        """The data, opened on first use."""
        return ImageCache(self.recipe.data)

    def build(self) -> nn.Module:
        self.cache  # noqa: B018  (so that missing data are reported before training)
        model = TokenizerTraining(self.recipe.model, bool(self.recipe.loss.adversarial))
        for lpips, _ in self.perceptual:
            lpips.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Start from an exported tokenizer with the same encoder except for its last layer.

        With ``frozen``, codebook and last layer must be the same, too. Weights of another shape (a codebook
        of another size, a wider decoder) stay untrained.
        """
        start, config = ImageTokenizer.from_directory(directory), self.recipe.model
        tokenizer = cast(TokenizerTraining, model).tokenizer
        state, last = tokenizer.state_dict(), f"encoder.{len(tokenizer.encoder) - 1}."
        fits = {
            name: x
            for name, x in start.state_dict().items()
            if name in state and x.shape == state[name].shape
        }
        needed = [name for name in state if name.startswith("encoder.") and not name.startswith(last)]
        if self.recipe.frozen:
            needed += [name for name in state if name.startswith(last) or name == "quantizer.codebook"]
        missing = [name for name in needed if name not in fits]
        if missing or start.config.normalisation != config.normalisation:
            reason = f"{missing[0]} has another shape" if missing else "it normalises images differently"
            raise CogViewError(
                f"init: the tokenizer in {directory} does not fit the recipe's model: {reason}"
            )
        if start.config.method != config.method and not self.recipe.frozen:  # keep the initial codebook
            fits = {name: x for name, x in fits.items() if not name.startswith("quantizer.")}
        tokenizer.load_state_dict(fits, strict=False)
        if "quantizer.codebook" in fits and not self.recipe.frozen:  # also sets its moving averages
            tokenizer.quantizer.initialise(tokenizer.quantizer.codebook.detach().clone())

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Phase "model" trains the tokenizer (without frozen parts), "discriminator" the discriminator."""
        frozen = tuple(f"tokenizer.{part}." for part in self.recipe.frozen)
        for name, parameter in model.named_parameters():
            if name.startswith("discriminator.") == (phase == "discriminator") and not name.startswith(
                frozen or ("-",)
            ):
                yield name, parameter

    def has_unused_parameters(self, phase: str) -> bool:
        """A codebook that is a parameter is not used during the warm-up."""
        learned = self.recipe.model.method in ("nearest", "gumbel")
        return phase == "model" and learned and self.recipe.warmup_steps > 0 and not self.recipe.frozen

    def loss_weights(self, batch: ImageBatch) -> dict[str, float]:
        """Weight the loss by the number of this rank's images."""
        return {"loss": float(len(batch["items"]))}

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[ImageBatch, State]]:
        """Batches of images (batch, 3, size, size) uint8 from the image cache."""
        return iter(
            ImageLoader(
                self.cache,
                self.recipe.batch_size,
                seed=self.recipe.seed,
                weights=self.recipe.weights,
                rank=rank,
                world=world,
                state=state,
            )
        )

    def loss(
        self, model: nn.Module, batch: ImageBatch, step: int, phase: str
    ) -> tuple[Tensor, Metrics] | None:
        training = cast(TokenizerTraining, model)
        images = _pixels(batch["images"])
        if phase == "discriminator":
            return self._discriminate(training, images, step)
        training.tokenizer.quantizer.progress(step / self.recipe.steps)
        self._share_statistics(training.tokenizer.quantizer, batch, step)
        decoded, codebook_loss = self._forward(training.tokenizer, images, step)
        self.decoded = decoded.detach()
        return self._compare(training, batch, decoded, codebook_loss, step)

    def _share_statistics(self, quantizer: Quantizer, batch: ImageBatch, step: int) -> None:
        """Have the quantizer sum statistics over all ranks, and seed its noise by step and image."""
        counts = bool(batch["items"])
        seeds = [seed_of(self.recipe.seed, step, item) for item in batch["items"] or [0]]
        quantizer.total = lambda values: self.ranks.total(values * counts)
        if isinstance(quantizer, GumbelQuantizer):
            quantizer.noise = lambda logits: _noise(logits, seeds)

    def _forward(self, model: ImageTokenizer, images: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if self.recipe.frozen:
            with torch.no_grad():
                vectors = model.quantizer.lookup(model.encode(images))
            return model.decode_vectors(
                vectors.view(len(images), *model.grid(images.shape[-1]), -1)
            ), images.new_zeros(())
        z = model.features(images)
        if step <= self.recipe.warmup_steps:
            return model.decode_vectors(z), 0.01 * z.pow(2).mean()
        quantized = cast(Quantized, model.quantizer(z))
        return model.decode_vectors(quantized.vectors), quantized.loss

    def _compare(
        self,
        training: TokenizerTraining,
        batch: ImageBatch,
        decoded: Tensor,
        codebook_loss: Tensor,
        step: int,
    ) -> tuple[Tensor, Metrics]:
        images = _pixels(batch["images"])
        weights, difference = self.recipe.loss, 2 * (decoded - images)
        l2, l1 = difference.pow(2).mean(), difference.abs().mean()
        total = weights.l2 * l2 + weights.l1 * l1
        metrics: Metrics = {"l2": l2.detach() / 4, "psnr": psnr(decoded, images).mean().detach()}
        for lpips, term in self.perceptual:
            distance = self._distance(lpips, term, batch, images, decoded, step)
            total = total + term.weight * distance
            metrics[f"lpips_{term.network}"] = distance.detach()
        if training.discriminator is not None and step > weights.adversarial_start * self.recipe.steps:
            adversarial = -training.discriminator(decoded).mean()
            last = [p for p in training.tokenizer.decoder.parameters() if p.ndim > 1][-1]
            part = len(batch["items"]) / batch["whole"]
            scale = adaptive_weight(total, adversarial, last, total=lambda g: self.ranks.total(g * part))
            total = total + weights.adversarial * scale * adversarial
            metrics["adversarial"] = adversarial.detach()
        return total + weights.quantizer * codebook_loss, metrics

    def _distance(
        self,
        lpips: LPIPS,
        term: PerceptualTerm,
        batch: ImageBatch,
        images: Tensor,
        decoded: Tensor,
        step: int,
    ) -> Tensor:
        """This rank's part of the mean distance over the first ``share`` of the global batch.

        In the mean over ranks it is weighted by the rank's images; some ranks may have none to compare.
        """
        compared = max(1, round(term.share * batch["whole"]))
        rows = len(range(self.ranks.rank, compared, self.ranks.world))
        if not rows:
            return images.new_zeros(())
        crop = crop_at(images.shape[-2:], term.crop, seed_of(self.recipe.seed, step, 0))
        distances: Tensor = lpips(decoded[:rows][crop], images[:rows][crop])
        return distances.sum() * (batch["whole"] / (compared * len(images)))

    def _discriminate(
        self, training: TokenizerTraining, images: Tensor, step: int
    ) -> tuple[Tensor, Metrics] | None:
        if step <= self.recipe.loss.adversarial_start * self.recipe.steps or self.decoded is None:
            return None
        discriminator = cast(PatchDiscriminator, training.discriminator)
        loss = hinge_loss(discriminator(images), discriminator(self.decoded))
        return loss, {"discriminator": loss.detach()}

    def after_step(self, model: nn.Module, step: int) -> Metrics:
        """Initialize the codebook after the warm-up, restart dead codes, and return the codebook's usage."""
        recipe, tokenizer = self.recipe, cast(TokenizerTraining, model).tokenizer
        if recipe.frozen or step < recipe.warmup_steps:
            return {}
        if step == recipe.warmup_steps and step:
            self._start_codebook(tokenizer)
        due = recipe.restart_every and step % recipe.restart_every == 0
        if due and step <= recipe.restart_until * recipe.steps:
            vectors = self._vectors(tokenizer, step, 1)
            with self._synchronized(tokenizer.quantizer, step):
                tokenizer.quantizer.restart(vectors, recipe.restart_below)
        usage = tokenizer.quantizer.usage
        return {"perplexity": codebook_perplexity(usage), "live": (usage > recipe.restart_below).sum()}

    @contextmanager
    def _synchronized(self, quantizer: Quantizer, step: int) -> Iterator[None]:
        """A context with generators seeded by the step; on exit all ranks have the same codebook."""
        with seeded(self.recipe.seed, step):
            yield
        self.ranks.broadcast([*quantizer.parameters(recurse=False), *quantizer.buffers(recurse=False)])

    @torch.no_grad()
    def _vectors(self, model: ImageTokenizer, seed: int, batches: int) -> Tensor:
        """Encoder outputs (n, code_dim) of training batches sampled with ``seed``, the same on all ranks."""
        outputs = [
            self.ranks.gather_rows(model.features(images)[:rows], batch_size)
            for images, rows, batch_size in islice(self._sampled_batches(seed), batches)
        ]
        return torch.cat(outputs).reshape(-1, self.recipe.model.code_dim)

    def _sampled_batches(self, seed: int) -> Iterator[tuple[Tensor, int, int]]:
        """Images of batches sampled with ``seed``, the number of this rank's images, and that of all."""
        recipe, ranks = self.recipe, self.ranks
        for batch, _ in ImageLoader(
            self.cache,
            recipe.batch_size,
            seed=seed,
            weights=recipe.weights,
            rank=ranks.rank,
            world=ranks.world,
        ):
            yield _pixels(batch["images"].to(self.device)), len(batch["items"]), batch["whole"]

    @torch.no_grad()
    def _start_codebook(self, model: ImageTokenizer) -> None:
        codes = self.recipe.model.codes
        grid = model.grid()
        batches = -(-10 * codes // (self.recipe.batch_size * grid[0] * grid[1]))
        vectors = self._vectors(model, self.recipe.seed + 1, min(batches, 400))
        with self._synchronized(model.quantizer, self.recipe.warmup_steps):
            model.quantizer.initialise(kmeans(vectors, codes, 8))

    def _validation(self) -> NDArray[np.int64]:
        """Indices of the held-out images; empty if the cache has no such split."""
        split = self.recipe.validation
        return self.cache.select([split] if split in self.cache.splits else [])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """PSNR, LPIPS with each network, and codebook usage, on the validation images if any."""
        tokenizer = cast(TokenizerTraining, model).tokenizer
        items = self._validation()[: self.recipe.validation_images]
        if not len(items):
            return {}
        metrics: dict[str, list[float]] = {"psnr": []}
        counts = torch.zeros(tokenizer.codes, dtype=torch.int64)
        for chunk in np.array_split(items, max(1, len(items) // 32)):
            images = _pixels(self.cache.images(chunk).to(self.device))
            codes = tokenizer.encode(images)
            decoded = tokenizer.decode(codes).clamp(0, 1)
            counts += torch.bincount(codes.flatten().cpu(), minlength=tokenizer.codes)
            metrics["psnr"] += psnr(decoded, images).tolist()
            for lpips, term in self.perceptual:
                metrics.setdefault(f"lpips_{term.network}", []).extend(lpips(decoded, images).tolist())
        report = {name: float(np.mean(values)) for name, values in metrics.items()}
        usage = {
            "usage": float((counts > 0).float().mean()),
            "perplexity": float(codebook_perplexity(counts)),
        }
        return report | usage

    def samples(self, model: nn.Module, directory: Path, step: int) -> None:
        """A sheet of originals above reconstructions; of training images if none are held out."""
        tokenizer = cast(TokenizerTraining, model).tokenizer
        items = self._validation()
        items = items if len(items) else self.cache.select(["train"])
        images = _pixels(self.cache.images(items[:: max(1, len(items) // 8)][:8]).to(self.device))
        rows = torch.cat([images, tokenizer.decode(tokenizer.encode(images)).clamp(0, 1)]).cpu()
        top, bottom = (torch.cat(list(part), dim=2) for part in rows.chunk(2))
        sheet = (torch.cat([top, bottom], dim=1).permute(1, 2, 0) * 255).round().byte().numpy()
        write_image(directory / f"reconstructions-{step:08d}.png", Image.fromarray(sheet))

    def export(self, model: nn.Module, directory: Path) -> None:
        cast(TokenizerTraining, model).tokenizer.save(directory)


def _noise(logits: Tensor, seeds: list[int]) -> Tensor:
    """Gumbel noise (n, codes); each of ``seeds`` seeds the n / len(seeds) rows of its image."""
    noise = torch.empty_like(logits)
    for seed, part in zip(seeds, noise.chunk(len(seeds)), strict=True):
        part.exponential_(generator=torch.Generator(logits.device).manual_seed(seed))
    return -noise.log()


def _pixels(images: Tensor) -> Tensor:
    """(batch, 3, H, W) uint8 to float32 in [0, 1], channels last in memory."""
    return images.contiguous(memory_format=torch.channels_last).float().div_(255)
