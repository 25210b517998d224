"""The model card of a model that somebody trained on their own images: data, measurements, limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogview import __version__
from cogview.training.train_on.survey import Survey

NAMES = {
    "image_tokenizer_psnr": "reconstruction of held-out pictures, PSNR in dB",
    "image_tokenizer_usage": "share of the codebook in use",
    "transformer_loss": "loss on held-out pictures, nats a token",
    "transformer_image_loss": "of it, image codes",
    "transformer_text_loss": "of it, text",
}

TO_BE_SAID = (
    "## Limits",
    "",
    "To be said by whoever shares this model: what it was made for, what it draws badly, what it must not be",
    "used for. It draws what its pictures show and nothing else; prompts and pictures are not filtered.",
    "",
    "## Biases",
    "",
    "Where a prompt leaves something open, it follows what most of its pictures had. Not measured;",
    "`cogview eval fairness` measures it, and `cogview generate --fairness TABLE` decides it.",
    "",
    "## Licence",
    "",
    "To be said: whose the pictures and captions are, under what licence, whether they show real people,",
    "and whom to write to for having a picture taken out.",
)


def write_card(
    path: Path, name: str, settings: Mapping[str, Any], found: Survey | None, facts: Mapping[str, float]
) -> None:
    """Write the card as Markdown."""
    lines = [f"# {name}", "", f"Trained by `cogview train-on` (cogview {__version__}).", "", "## Data", ""]
    if found is not None:
        counts = ", ".join(f"{k or 'untagged'} {v:,}" for k, v in found.report.captions.items())
        lines += [f"- {found.pictures:,} pictures from `{Path(settings['source']).name}`; captions: {counts}"]
        lines += [f"- {found.unnamed:,} captions are the files' names"] if found.unnamed else []
        lines += [f"- left out: {reason}, {n:,}" for reason, n in found.report.rejected.items()]
    lines += ["", "## Settings", ""]
    shown = ("size", "start", "lora", "captions", "translate", "seed", "overrides")
    lines += [f"- {key}: {settings[key]}" for key in shown if settings.get(key)]
    lines += ["", "## Measurements", ""]
    lines += [f"- {NAMES[key]}: {value:.3f}" for key, value in facts.items() if key in NAMES]
    if not any(key in NAMES for key in facts):
        lines.append("- none: too few pictures to hold any out")
    lines += ["", *TO_BE_SAID, ""]
    path.write_text("\n".join(lines), encoding="utf-8")
