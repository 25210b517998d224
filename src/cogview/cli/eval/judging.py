"""``cogview eval train-classifier`` and ``train-scorer``: the networks that judge images."""

from __future__ import annotations

from pathlib import Path

import typer

from cogview.cli.options import grouped
from cogview.cli.output import bars, writing
from cogview.evaluation import inputs, plans
from cogview.pipelines.task_requests import use_threads


@grouped()
def train_classifier(
    given: inputs.Corpus, network: inputs.Network, training: plans.ClassifierTraining
) -> None:
    """Train the classifier that reads attributes off images, on real images of split "train" only."""
    from cogview.evaluation.judges.classifier_training import train_from_corpus, up_to_date

    learned, out = (given.corpus, training, network.size, given.source, given.rare), network.out
    if not network.force and up_to_date(out, *learned):
        typer.echo(f"{out} is up to date; --force trains it again")
        return
    use_threads(network.threads)
    reader = train_from_corpus(*learned, run=run_of(out))
    with writing(out / "config.json"):
        reader.save(out)
    facts = reader.config.facts
    accuracy = facts.get("val_accuracy")
    right = f"{100 * accuracy:.1f} %" if isinstance(accuracy, float) else "nothing"
    typer.echo(
        f"{out}: {len(reader.config.attributes)} attributes of {len(reader.styles)} styles, "
        f"{facts['pictures']} pictures, {facts['seconds']} s, {right} of split 'val' read right"
    )


def run_of(out: Path) -> Path:
    """Where the training is kept until it is done: stopped, the same command goes on."""
    return out.with_name(f"{out.name}.run")


@grouped()
def train_scorer(given: inputs.ScorerCorpus, network: inputs.Network, training: plans.ScorerTraining) -> None:
    """Train the scorer of how well an image and a sentence fit, on real images and their captions.

    cogview eval train-scorer --data corpus --out runs/scorer
    """
    from cogview.evaluation.judges.scorer_training import train_from_data, up_to_date

    learned, out = (training, network.size, given.split, given.limit), network.out
    if not network.force and up_to_date(out, given.data, *learned):
        typer.echo(f"{out} is up to date; --force trains it again")
        return
    use_threads(network.threads)
    with bars() as progress:
        scorer = train_from_data(given.data, given.tokenizer(), *learned, progress, run_of(out))
    with writing(out / "config.json"):
        scorer.save(out)
    facts = scorer.config.facts
    typer.echo(f"{out}: {facts['pictures']} pictures, {facts['steps']} steps, {facts['seconds']} s")
