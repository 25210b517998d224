"""The model card of a model trained with train-on: data, measurements, limitations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogview import __version__
from cogview.training.train_on.survey import Survey

NAMES = {
    "image_tokenizer_psnr": "reconstruction of held-out images, PSNR in dB",
    "image_tokenizer_usage": "fraction of the codebook in use",
    "transformer_loss": "loss on held-out images, nats a token",
    "transformer_image_loss": "of it, image codes",
    "transformer_text_loss": "of it, text",
}

TO_COMPLETE = (
    "## Limitations",
    "",
    "To be completed by whoever shares this model: its intended use, what it generates badly, what it must",
    "not be used for. It generates what its training images show and nothing else; prompts and images are",
    "not filtered.",
    "",
    "## Biases",
    "",
    "If a prompt leaves something open, the model follows the majority of its training images. Not measured;",
    "`cogview eval fairness` measures it, and `cogview generate --fairness TABLE` controls it.",
    "",
    "## Licence",
    "",
    "To be completed: the owner and the licence of the images and captions, whether they show real people,",
    "and whom to contact to have an image removed.",
)


def write_card(
    path: Path, name: str, settings: Mapping[str, Any], survey: Survey | None, facts: Mapping[str, float]
) -> None:
    """Write the card as Markdown."""
    lines = [f"# {name}", "", f"Trained by `cogview train-on` (cogview {__version__}).", "", "## Data", ""]
    if survey is not None:
        counts = ", ".join(f"{k or 'untagged'} {v:,}" for k, v in survey.report.captions.items())
        lines += [f"- {survey.pictures:,} images from `{Path(settings['source']).name}`; captions: {counts}"]
        lines += [f"- {survey.unnamed:,} captions are the files' names"] if survey.unnamed else []
        lines += [f"- left out: {reason}, {n:,}" for reason, n in survey.report.rejected.items()]
    lines += ["", "## Settings", ""]
    shown = ("size", "start", "lora", "captions", "translate", "seed", "overrides")
    lines += [f"- {key}: {settings[key]}" for key in shown if settings.get(key)]
    lines += ["", "## Measurements", ""]
    lines += [f"- {NAMES[key]}: {value:.3f}" for key, value in facts.items() if key in NAMES]
    if not any(key in NAMES for key in facts):
        lines.append("- none: too few images to hold any out")
    lines += ["", *TO_COMPLETE, ""]
    path.write_text("\n".join(lines), encoding="utf-8")
