"""Image tokenizers on a device, for builds with images and codes on the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.data.build import ImageEncoder


class OnDevice:
    """An image tokenizer on a device, with inputs and outputs on the CPU.

    half: encode with bfloat16 autocast. About 1 code in 40 then differs, with almost the same distance.
    """

    def __init__(self, images: ImageEncoder, device: torch.device, half: bool = False) -> None:
        if isinstance(images, nn.Module):
            images.to(device)
        self.images, self.device, self.half = images, device, half
        self.codes, self.fingerprint, self.grid = images.codes, images.fingerprint, images.grid

    def encode(self, images: Tensor) -> Tensor:
        """Codes (batch, h * w) of images (batch, 3, H, W)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return self.images.encode(images.to(self.device)).cpu()


def encoding_device(name: str) -> torch.device:
    """The device of a name; "auto" is this rank's local GPU, if there are any."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        return torch.device("cuda", int(local) % torch.cuda.device_count())
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CogViewError(f"--device {name} is not available here; use auto or cpu") from error
    return device
