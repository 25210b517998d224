"""``cogview eval train-classifier`` and ``train-scorer``: train the networks that evaluate images."""

from __future__ import annotations

from pathlib import Path

import typer

from cogview.cli.options import grouped
from cogview.cli.output import bars, writing
from cogview.evaluation import inputs, plans
from cogview.pipelines.task_requests import use_threads


@grouped()
def train_classifier(
    args: inputs.Corpus, network: inputs.Network, training: plans.ClassifierTraining
) -> None:
    """Train the attribute classifier, on real images of split "train" only."""
    from cogview.evaluation.judges.classifier_training import train_from_corpus, up_to_date

    settings, out = (args.corpus, training, network.size, args.source, args.rare), network.out
    if not network.force and up_to_date(out, *settings):
        typer.echo(f"{out} is up to date; --force trains it again")
        return
    use_threads(network.threads)
    classifier = train_from_corpus(*settings, run=run_of(out))
    with writing(out / "config.json"):
        classifier.save(out)
    facts = classifier.config.facts
    accuracy = facts.get("val_accuracy")
    correct = f"{100 * accuracy:.1f} %" if isinstance(accuracy, float) else "nothing"
    typer.echo(
        f"{out}: {len(classifier.config.attributes)} attributes of {len(classifier.styles)} styles, "
        f"{facts['pictures']} images, {facts['seconds']} s, {correct} of split 'val' read right"
    )


def run_of(out: Path) -> Path:
    """The run directory of an unfinished training, from which the same command resumes it."""
    return out.with_name(f"{out.name}.run")


@grouped()
def train_scorer(args: inputs.ScorerCorpus, network: inputs.Network, training: plans.ScorerTraining) -> None:
    """Train the dual encoder that scores how well a text describes an image, on real images and captions.

    cogview eval train-scorer --data corpus --out runs/scorer
    """
    from cogview.evaluation.judges.scorer_training import train_from_data, up_to_date

    settings, out = (training, network.size, args.split, args.limit), network.out
    if not network.force and up_to_date(out, args.data, *settings):
        typer.echo(f"{out} is up to date; --force trains it again")
        return
    use_threads(network.threads)
    with bars() as progress:
        scorer = train_from_data(args.data, args.tokenizer(), *settings, progress, run_of(out))
    with writing(out / "config.json"):
        scorer.save(out)
    facts = scorer.config.facts
    typer.echo(f"{out}: {facts['pictures']} images, {facts['steps']} steps, {facts['seconds']} s")
