"""What the weight of the text's loss does to alignment (CogView, section 2.3).

    python benchmarks/papers/text_weight.py
    python benchmarks/papers/text_weight.py --rehearse

The data are the small world of ``world.py``, whose pictures can be read exactly: each model draws the
captions of withheld combinations, and ``agreement`` is the share of named things that the pictures show (by
chance: 0.19). ``image_loss`` has log 4 = 1.386 nats as its floor, and 1.493 where the text is ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from experiment import Experiment, Found, Run, bars, curves, main
from world import ORDERS, agreement, caption, combinations, held_out, read

from cogview.config import read_yaml
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.training.tasks.transformer import TransformerRecipe, TransformerTask
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams

WEIGHTS = (0, 0.2, 1, 5)


def measure(run: Run) -> Found:
    """Attributes of drawn pictures that are as asked, and the losses of withheld pictures.

    Without a weight no text token is counted, so there is no text loss.
    """
    losses = {name: run.last(name) or None for name in ("image_loss", "text_loss")}
    return {"agreement": drawn_as_asked(run), **losses}


@torch.inference_mode()
def drawn_as_asked(run: Run) -> float:
    """The agreement of one picture of every withheld combination in each language."""
    given = read_yaml(TransformerRecipe, run.directory / "recipe.yaml")
    format = TransformerTask(given).format
    asked = [(own, language) for own in combinations() if held_out(own) for language in ORDERS]
    prompts = [format.image_prompt(list(caption(own, language))) for own, language in asked]
    model = Transformer.from_directory(run.directory / "model").eval()
    engine = Engine(pack(model, slice(0, format.vocabulary.image_codes)))
    requests = [SequenceRequest(prompt, 0, number) for number, prompt in enumerate(prompts)]
    drawn = dict(engine.generate(requests, SamplingParams()))
    codes = np.stack([drawn[number] for number in range(len(requests))])
    return agreement([own for own, _ in asked], read(codes, format.grid[0]))


def plot(found: Found, figure: Any) -> None:
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 1.2, 1.2))
    curves(found, left, width=2)
    left.set(xlabel="step", ylabel="image loss in training, nats a code")
    bars(found, middle, "agreement")
    middle.axhline(0.19, color="black", linestyle=":", linewidth=1)
    middle.set(ylabel="named things shown", ylim=(0, 1), xlabel="weight of the text")
    bars(found, right, "image_loss")
    right.axhline(1.386, color="black", linestyle=":", linewidth=1)
    right.set(ylabel="image loss, withheld", ylim=(1.36, None), xlabel="weight of the text")


EXPERIMENT = Experiment(
    name="text_weight",
    claim="CogView, section 2.3: with a weight of zero for the loss of text tokens the model fails to find "
    "the connections between text and image",
    arms={f"{weight:g}": [f"format.text_weight={weight}"] for weight in WEIGHTS},
    settings=["model.layers=3", "optimizer.lr=2e-3", "format.text_slots=8"],
    rehearsal=["steps=30", "model.layers=1", "model.hidden=16", "model.heads=2", "intervals.evaluate=30"],
    measure=measure,
    curve="image_loss",
    seeds=2,
    plot=plot,
)

if __name__ == "__main__":
    main(EXPERIMENT)
