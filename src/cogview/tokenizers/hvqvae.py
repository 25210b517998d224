"""CogView2's image tokenizer: one codebook, three scales of codes (CogView2, section 3; icetk's HVQVAE).

An encoder halves the image twice; two samplers halve its output once and twice more, so that a code covers
4, 8 or 16 pixels a side. All three scales share one codebook of 20,000 codes, and each has its own decoder.
CogView2 generates with 8 pixels a code: 160 px are 20 x 20 codes, 480 px are 60 x 60.

Encoder and decoders are VQGAN's (Esser et al., 2021): residual blocks with group norm and swish, and global
attention in the middle. Downsampling pads only on the right and at the bottom. Shapes: images
``(batch, 3, H, W)`` in [0, 1]; codes ``(batch, h * w)`` int64, row by row.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.config import Config, read_json
from cogview.errors import CogViewError
from cogview.tokenizers.quantizers import MovingAverageQuantizer, Quantized
from cogview.tokenizers.saving import CONFIG, load_weights, save_weights, stored_fingerprint
from cogview.tokenizers.vqvae import MAX_SIDE, RELEASED_MEAN, RELEASED_STD, Finite, Positive

Levels = tuple[Annotated[int, Field(ge=1, le=64)], ...]
Attending = Annotated[tuple[Annotated[int, Field(ge=0, le=16)], ...], Field(max_length=16)]
ROWS = 1024  # vectors whose distances to all codes are computed at a time


class HierarchicalConfig(Config):
    """Architecture and normalisation of a hierarchical tokenizer; the defaults are the release's.

    rate: default pixels a side of a code; channels times an entry of ``multipliers`` is a level's width,
    finest first; blocks: residual blocks per level of the encoder (the decoders have one). decoders:
    multipliers of each scale's decoder, coarsest scale first; attention: the levels of each decoder with
    global attention. features: width of the encoder's output; groups: of the group norms.
    """

    architecture: Literal["hierarchical"] = "hierarchical"
    image_size: int = Field(160, ge=4, le=MAX_SIDE)
    rate: int = 8
    channels: int = Field(128, ge=1, le=1 << 13)
    multipliers: Levels = Field((1, 2, 4), min_length=1, max_length=8)
    blocks: int = Field(2, ge=1, le=64)
    decoders: tuple[Levels, ...] = Field(((1, 1, 1, 2, 4), (1, 1, 2, 4), (1, 2, 4)), max_length=8)
    attention: tuple[Attending, ...] = Field(((4,), (), ()), max_length=8)
    features: int = Field(256, ge=1, le=1 << 14)
    codes: int = Field(20_000, ge=2, le=1 << 24)
    code_dim: int = Field(256, ge=1, le=1 << 16)
    groups: int = Field(32, ge=1, le=1 << 13)
    commitment: float = Field(1.0, ge=0, allow_inf_nan=False)
    mean: tuple[Finite, Finite, Finite] = RELEASED_MEAN
    std: tuple[Positive, Positive, Positive] = RELEASED_STD

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        levels = [len(decoder) for decoder in self.decoders]
        first = len(self.multipliers)
        if not levels or levels != list(range(first + len(levels) - 1, first - 1, -1)):
            raise ValueError("decoders: the last has the encoder's levels, each before it one more")
        if len(self.attention) != len(levels):
            raise ValueError("attention: give the levels of every decoder, () for none")
        if self.rate not in self.rates:
            raise ValueError(f"rate {self.rate} is none of {', '.join(map(str, self.rates))}")
        if self.image_size % self.rate:
            raise ValueError(f"image_size {self.image_size} is not a multiple of the rate {self.rate}")
        widths = [self.channels * m for levels in (self.multipliers, *self.decoders) for m in levels]
        if any(width % self.groups for width in widths):
            raise ValueError(f"groups {self.groups} does not divide every level's channels")
        return self

    @property
    def rates(self) -> tuple[int, ...]:
        """Pixels a side of a code at each scale, finest first."""
        first = len(self.multipliers) - 1
        return tuple(2 ** (first + scale) for scale in range(len(self.decoders)))

    @property
    def factor(self) -> int:
        """Pixels a side of a code at the default rate."""
        return self.rate


class ResnetBlock(nn.Module):
    """shortcut(x) + conv(swish(norm(conv(swish(norm(x)))))); a 1x1 shortcut if the width changes."""

    def __init__(self, width: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if width != out:
            self.nin_shortcut = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return cast(Tensor, (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + y)


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions of a feature map, with a residual."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (part(y).flatten(2).mT.unsqueeze(1) for part in (self.q, self.k, self.v))  # (b, 1, h w, c)
        y = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        return cast(Tensor, x + self.proj_out(y.squeeze(1).mT.reshape(x.shape)))


class Downsample(nn.Module):
    """Halve the size with a strided convolution, padded by one pixel on the right and at the bottom."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.pad(x, (0, 1, 0, 1))))


class Upsample(nn.Module):
    """Double the size: nearest-neighbour upsampling, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


class Sampler(nn.Module):
    """Halve the size of the features: 2x2 average pooling plus a strided convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_down_sampler = Downsample(width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, F.avg_pool2d(x, 2) + self.conv_down_sampler(x))


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(width, width, groups)
        self.attn_1 = AttentionBlock(width, groups)
        self.block_2 = ResnetBlock(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.block_2(self.attn_1(self.block_1(x))))


class Level(nn.Module):
    """One resolution: residual blocks, optionally with attention after each, then a change of size."""

    def __init__(self, width: int, out: int, blocks: int, groups: int, attends: bool = False) -> None:
        super().__init__()
        widths = [width] + [out] * blocks
        self.block = nn.ModuleList(ResnetBlock(widths[i], out, groups) for i in range(blocks))
        self.attn = nn.ModuleList(AttentionBlock(out, groups) for _ in range(blocks if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Encoder(nn.Module):
    """Normalised images (b, 3, H, W) to features (b, features, H / first rate, W / first rate)."""

    def __init__(self, config: HierarchicalConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in (1, *config.multipliers)]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for i in range(len(config.multipliers)):
            level = Level(widths[i], widths[i + 1], config.blocks, config.groups)
            if i + 1 < len(config.multipliers):
                level.downsample = Downsample(widths[i + 1])
            self.down.append(level)
        self.mid = Middle(widths[-1], config.groups)
        self.norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config.features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(self.mid(x)))))


class Decoder(nn.Module):
    """Code vectors (b, code_dim, h, w) of one scale to normalised images (b, 3, H, W)."""

    def __init__(self, config: HierarchicalConfig, multipliers: Levels, attention: Levels) -> None:
        super().__init__()
        widths = [config.channels * m for m in (*multipliers, multipliers[-1])]
        self.conv_in = nn.Conv2d(config.code_dim, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.groups)
        self.up = nn.ModuleList()
        for i in range(len(multipliers)):
            level = Level(widths[i + 1], widths[i], 1, config.groups, attends=i in attention)
            if i:
                level.upsample = Upsample(widths[i])
            self.up.append(level)
        self.norm_out = nn.GroupNorm(config.groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(x))))


class ProjectedQuantizer(MovingAverageQuantizer):
    """The codebook shared by all scales, after a 1x1 projection of the encoder's output."""

    def __init__(self, config: HierarchicalConfig) -> None:
        super().__init__(config.codes, config.code_dim, config.commitment)
        self.proj = nn.Conv2d(config.features, config.code_dim, 1)

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Codes (...) of projected vectors (..., dim): nearest in float32, the first index wins a tie."""
        rows = torch.split(z.reshape(-1, self.dim), ROWS)
        return torch.cat([self.distances(part).argmin(1) for part in rows]).view(z.shape[:-1])


class HierarchicalTokenizer(nn.Module):
    """Encoder, samplers, one codebook, and a decoder per scale; see the module's docstring for shapes.

    The argument ``rate`` (pixels a side of a code: 4, 8, 16 in the release) selects the scale; None is the
    configuration's.
    """

    def __init__(self, config: HierarchicalConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HierarchicalConfig()
        self.encoder = Encoder(config)
        self.samplers = nn.ModuleList(Sampler(config.features) for _ in config.decoders[1:])
        self.quantizer = ProjectedQuantizer(config)
        self.decoders = nn.ModuleList(map(Decoder, [config] * 9, config.decoders, config.attention))
        self.rounded_from: str | None = None  # the fingerprint before its weights were rounded to int8

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return self.config.codes

    @property
    def image_size(self) -> int:
        """Default side of images in pixels."""
        return self.config.image_size

    def grid(self, size: int | None = None, rate: int | None = None) -> tuple[int, int]:
        """Codes (rows, columns) of a square image of ``size`` pixels (default: ``image_size``)."""
        side = (self.config.image_size if size is None else size) // (rate or self.config.rate)
        return side, side

    def features(self, images: Tensor, rate: int | None = None) -> Tensor:
        """Encoder outputs (batch, h, w, code_dim), not quantised, of images (batch, 3, H, W) in [0, 1]."""
        return self._project(self._sampled(self._encoded(images), self._scale(rate, images)))

    def all_features(self, images: Tensor) -> list[Tensor]:
        """:meth:`features` at every scale, finest first, with one pass of the encoder."""
        z, features = self._encoded(images), []
        for scale in range(len(self.decoders)):
            self._scale(self.config.rates[scale], images)
            z = z if scale == 0 else self.samplers[scale - 1](z)
            features.append(self._project(z))
        return features

    @torch.no_grad()
    def encode(self, images: Tensor, rate: int | None = None) -> Tensor:
        """Codes (batch, h * w) int64 of images (batch, 3, H, W) in [0, 1]."""
        return self.quantizer.encode(self.features(images, rate)).flatten(1)

    def decode(self, codes: Tensor, grid: tuple[int, int] | None = None, rate: int | None = None) -> Tensor:
        """Images (batch, 3, H, W), nominally in [0, 1] and not clamped, of codes (batch, h * w).

        ``grid`` gives (h, w) when the image is not square.
        """
        if grid is None:
            side = math.isqrt(codes.shape[1])
            grid = (side, side)
        if grid[0] * grid[1] != codes.shape[1]:
            raise CogViewError(f"{codes.shape[1]} codes do not fill a grid of {grid[0]} x {grid[1]}")
        return self.decode_vectors(self.quantizer.lookup(codes).view(codes.shape[0], *grid, -1), rate)

    def decode_vectors(self, vectors: Tensor, rate: int | None = None) -> Tensor:
        """Images (batch, 3, H, W) of quantised vectors (batch, h, w, code_dim)."""
        images = self.decoder(rate)(vectors.permute(0, 3, 1, 2).contiguous())
        return cast(Tensor, images * self._per_channel(images, "std") + self._per_channel(images, "mean"))

    def decoder(self, rate: int | None = None) -> Decoder:
        """The decoder of a scale."""
        return cast(Decoder, self.decoders[len(self.decoders) - 1 - self._scale(rate)])

    def forward(self, images: Tensor, rate: int | None = None) -> tuple[Tensor, Quantized]:
        """Reconstructions (batch, 3, H, W) and the quantizer's result, for training."""
        quantized = cast(Quantized, self.quantizer(self.features(images, rate)))
        return self.decode_vectors(quantized.vectors, rate), quantized

    def _scale(self, rate: int | None, images: Tensor | None = None) -> int:
        """The index of a rate, finest first; raises CogViewError for an unknown rate or unsuitable images."""
        rate, rates = rate or self.config.rate, self.config.rates
        if rate not in rates:
            raise CogViewError(
                f"no codes of {rate} px in this tokenizer; it has {', '.join(map(str, rates))}"
            )
        if images is not None and (images.shape[-1] % rate or images.shape[-2] % rate):
            size = f"{images.shape[-1]}x{images.shape[-2]}"
            raise CogViewError(f"an image of {size} px does not divide into codes of {rate} px; resize it")
        return rates.index(rate)

    def _encoded(self, images: Tensor) -> Tensor:
        normalised = (images - self._per_channel(images, "mean")) / self._per_channel(images, "std")
        return cast(Tensor, self.encoder(normalised))

    def _sampled(self, z: Tensor, scale: int) -> Tensor:
        for sampler in list(self.samplers)[:scale]:
            z = sampler(z)
        return z

    def _project(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.quantizer.proj(z).permute(0, 2, 3, 1))

    def _per_channel(self, like: Tensor, name: Literal["mean", "std"]) -> Tensor:
        return like.new_tensor(getattr(self.config, name)).view(1, 3, 1, 1)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of a hash of all that determines codes: equal fingerprints mean equal codes.

        The decoders are excluded on purpose: they may be improved without invalidating stored tokens. Weights
        are hashed as float16; a tokenizer stored as int8 keeps its original fingerprint.
        """
        if self.rounded_from is not None:
            return self.rounded_from
        settings = [self.config.mean, self.config.std, self.config.rate]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for name, tensor in sorted(self._stored().items()):
            if not name.startswith("decoders."):
                digest.update(name.encode() + tensor.detach().cpu().half().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, directory: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write ``config.json`` and ``model.safetensors`` (weights for inference, in ``dtype`` or int8)."""
        original = self.fingerprint if dtype == torch.int8 else self.rounded_from
        save_weights(directory, self.config, self._stored(), dtype, original)

    @classmethod
    def from_directory(cls, directory: str | Path) -> HierarchicalTokenizer:
        """Read a tokenizer written by ``save``, in float32 and evaluation mode.

        Raises:
            CogViewError: files missing, damaged, or of another architecture.
        """
        with torch.device("meta"):
            model = cls(read_json(HierarchicalConfig, Path(directory) / CONFIG))
        model.rounded_from = stored_fingerprint(directory)
        return model.load(load_weights(directory, model._stored()))

    def load(self, state: dict[str, Tensor]) -> HierarchicalTokenizer:
        """Load all weights from ``state`` in float32; the moving averages default to the codebook."""
        weights = {name: tensor.float() for name, tensor in state.items()}
        book = weights["quantizer.codebook"]
        weights["quantizer.average"] = weights.get("quantizer.average", book.clone())
        for name in ("quantizer.cluster_size", "quantizer.usage"):
            weights[name] = weights.get(name, torch.ones(len(book)))
        self.load_state_dict(weights, assign=True)
        return self.eval()

    def _stored(self) -> dict[str, Tensor]:
        """The weights that inference needs."""
        training = ("quantizer.average", "quantizer.cluster_size", "quantizer.usage")
        return {name: tensor for name, tensor in self.state_dict().items() if name not in training}
