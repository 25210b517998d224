"""``cogview eval train-classifier`` and ``train-scorer``: the networks that judge images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cogview.checkpoints.bundle import ModelBundle, ModelName
from cogview.cli.eval.common import CORPUS, DATA, SOURCE
from cogview.cli.options import grouped
from cogview.cli.output import bars, writing
from cogview.config import Config, Existing, MaybeExisting, option
from cogview.evaluation.plans import ClassifierTraining, Rows, ScorerTraining
from cogview.pipelines.requests import THREADS, use_threads

if TYPE_CHECKING:
    from cogview.tokenizers.text import TextTokenizer


class Network(Config):
    """The network that is trained."""

    out: Path = option(..., "The network's directory.")
    size: int = option(72, "Side of the pictures it reads, in pixels.", ge=16)
    force: bool = option(False, "Train even if it is already there.")
    threads: int | None = THREADS


class Corpus(Config):
    """What the classifier learns from."""

    corpus: Existing = CORPUS
    source: Rows = SOURCE
    rare: int = option(20, "Skip values with fewer training pictures.", ge=1)


@grouped()
def train_classifier(given: Corpus, network: Network, training: ClassifierTraining) -> None:
    """Train the classifier that reads attributes off pictures, on real pictures of split "train" only."""
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


class Captions(Config):
    """What the scorer learns from, and how it reads text."""

    data: Existing = DATA(...)
    split: str = option("train", "What it learns from; keep what you measure out of it.")
    limit: int | None = option(None, "Largest number of pictures, of all sources.", shown="all", ge=4)
    model: ModelName = option("pictogram", "The family whose text tokenizer it uses: a name or a directory.")
    text_tokenizer: MaybeExisting = option(None, "A SentencePiece model instead of the family's.")

    def tokenizer(self) -> TextTokenizer:
        """The text tokenizer."""
        from cogview.tokenizers.text import TextTokenizer

        if self.text_tokenizer:
            return TextTokenizer.from_file(self.text_tokenizer)
        return ModelBundle.find(self.model).text_tokenizer()


@grouped()
def train_scorer(given: Captions, network: Network, training: ScorerTraining) -> None:
    """Train the scorer of how well a picture and a sentence fit, on real pictures and their captions.

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
