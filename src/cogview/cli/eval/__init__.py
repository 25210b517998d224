"""``cogview eval``: evaluate images by fidelity to prompts and closeness to real images, and a model's parts.

The settings of every verb are the fields of a plan in :mod:`cogview.evaluation.plans`.
"""

from __future__ import annotations

import typer

from cogview.cli.eval import faithfulness, judging, quality, ranking

evaluate = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Evaluate a model: attribute accuracy of its images, fidelity of its image tokenizer.",
)
VERBS = (
    faithfulness.attributes, faithfulness.things, faithfulness.scenes, faithfulness.alignment,
    faithfulness.editing, faithfulness.fairness, ranking.captions, ranking.best_of, ranking.order,
    quality.tokenizer, quality.pictures, quality.compare, quality.coco, quality.diversity,
    quality.upscaling, quality.speed, judging.train_classifier, judging.train_scorer,
)  # fmt: skip
for verb in VERBS:
    evaluate.command(verb.__name__.replace("_", "-"))(verb)
