"""What pixel prior and transformer each do in super-resolution (CogView, section 3.1): an ablation by LPIPS.

    python benchmarks/pixel_prior.py --corpus corpus --lpips lpips_vgg16.safetensors

Held-out pictures are halved and brought back, once from the small picture's pixels and once from its codes
alone: by plain enlargement, by the codes that the pixel prior prefers (no transformer), by the transformer
(no pixel prior), and by both. From pixels every result is corrected as ``cogview upscale`` does. Greedy.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cogview import CogView
from cogview.evaluation.experiments.windowed_upscaling import Pixels, held_out
from cogview.evaluation.metrics.reconstruction import fidelity, measure
from cogview.evaluation.plans import UpscalingPlan
from cogview.generation.image_upscaling import Original, Upscaler
from cogview.generation.pixel_prior import DECODED, KNOWN
from cogview.generation.window_super_resolution import SmallImage, upscale_codes
from cogview.pipelines.base import encode_caption
from cogview.tokenizers.perceptual import LPIPS
from cogview.types import SamplingParams


def ways(upscaler: Upscaler, original: Original, text: list[int], slope: float) -> dict[str, Pixels]:
    """One picture, twice as large in each way."""
    assert upscaler.pixel_prior is not None
    grid = (original.codes.shape[0], original.codes.shape[1])
    device = next(upscaler.images.parameters()).device
    with torch.inference_mode():
        codes = torch.from_numpy(original.codes.reshape(1, -1)).to(device)
        painted = upscaler.images.decode(codes, grid)[0].clamp(0, 1)
        pixels = painted.cpu() if original.pixels is None else original.pixels
        prior = upscaler.pixel_prior.likelihood(pixels, 2, slope)
    alone = SmallImage(text, original.codes, 0, 0)
    settings = SamplingParams(top_k=1)
    found = {
        "pixel prior": upscaler.images.quantizer.encode(prior.vectors).numpy(),
        "transformer": dict(upscale_codes(upscaler.engine, upscaler.format, [alone], settings))[0],
        "both": dict(
            upscale_codes(upscaler.engine, upscaler.format, [replace(alone, pixels=prior)], settings)
        )[0],
    }
    made = {name: np.asarray(upscaler.decode(codes, original, 2)) for name, codes in found.items()}
    small = Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
    large = small.resize((2 * small.width, 2 * small.height), Image.Resampling.BICUBIC)
    return {"bicubic": np.asarray(large)} | made


def main() -> None:
    """Measure all ways and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="pictures of twice the model's size")
    parser.add_argument("--lpips", type=Path, required=True, help="what cogview import lpips wrote (VGG16)")
    parser.add_argument("--model", default="pictogram")
    parser.add_argument("-n", "--n", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pixel_prior.json"))
    options = parser.parse_args()
    model, judge = CogView.from_pretrained(options.model), LPIPS.from_file(options.lpips)
    upscaler, side = model.super_resolution.upscaler, 2 * model.image_tokenizer.image_size
    pictures, captions = held_out(options.corpus, UpscalingPlan(limit=options.n), side)
    rows: dict[str, list[Pixels]] = {}
    for pixels, caption in zip(pictures.pixels, captions, strict=True):
        half = (side // 2, side // 2)
        known = upscaler.read(Image.fromarray(pixels).resize(half, Image.Resampling.BOX), 2)
        text = list(encode_caption(model.components, caption, upscaler.format.text_limit))
        for start, original, slope in (("pixels", known, KNOWN), ("codes", Original(known.codes), DECODED)):
            for name, made in ways(upscaler, original, text, slope).items():
                rows.setdefault(f"from {start}: {name}", []).append(made)
    found = {}
    for name, copies in rows.items():
        lpips = fidelity(measure(pictures.pixels, np.stack(copies), judge)).lpips
        assert lpips is not None
        found[name] = round(lpips, 4)
        print(f"{name:26} LPIPS {lpips:.4f}", flush=True)
    facts = {"model": options.model, "model_hash": model.model_hash, "pictures": len(pictures.pixels)}
    options.out.write_text(json.dumps(facts | {"lpips": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
