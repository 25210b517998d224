"""The stages from a folder to a model family; finished stages are skipped, interrupted ones are resumed.

=================  ================================================================  =====================
stage              output in the work directory                                      after an interruption
=================  ================================================================  =====================
look               the survey, in ``state.json``                                     starts again
text               ``text.model``                                                    starts again
pictures           ``pictures/``, the decoded images                                 starts again
image_tokenizer    ``image_tokenizer/``, a run of `cogview train`                    resumes at any step
tokens             ``tokens/``, token shards                                         resumes after any shard
transformer        ``transformer/``, a run of `cogview train`                        resumes at any step
model              the family directory, with its card and samples.png               starts again
=================  ================================================================  =====================

Every stage writes its output atomically, and ``state.json`` is written after it, so that a kill at any time
loses at most the work since the last checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from cogview.checkpoints.bundle import FILE, ModelBundle
from cogview.config import read_json
from cogview.data.build import BuildSettings, build
from cogview.data.decoders import workers_for
from cogview.data.encoding import OnDevice
from cogview.data.image_cache import build_image_cache
from cogview.data.shards import Preprocessing, write_atomically
from cogview.data.sources import (
    CaptionedSource,
    Columns,
    Source,
    TranslatedSource,
    command_translator,
    open_source,
)
from cogview.data.wordings import RewordedSource
from cogview.errors import CogViewError
from cogview.files import write_image
from cogview.pipelines.model import Pipeline
from cogview.sequences import SequenceFormat, of_type
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.training.assembly import FamilySettings, assemble
from cogview.training.launch import pick_device, prepare_directory
from cogview.training.locks import LOCK, locked
from cogview.training.progress import duration
from cogview.training.recipe import Recipe
from cogview.training.registry import task_class
from cogview.training.sample_sheet import Samples
from cogview.training.task import Task
from cogview.training.tasks.image_tokenizer import ImageTokenizerRecipe
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.train_on.card import write_card
from cogview.training.train_on.filename_captions import NamedSource
from cogview.training.train_on.measure import last_evaluations, tokenizer_seconds, transformer_seconds
from cogview.training.train_on.model_sizes import (
    Size,
    finish_recipes,
    named_size,
    tokenizer_recipe,
    transformer_recipe,
)
from cogview.training.train_on.settings import Settings, check_settings
from cogview.training.train_on.state import SAMPLES, STAGES, STATE, Stage, State
from cogview.training.train_on.survey import (
    Cost,
    Lengths,
    Part,
    describe,
    estimate,
    fit_text_tokenizer,
    held_out,
    survey,
)
from cogview.training.trainer import Trainer
from cogview.transformer.config import TransformerConfig
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary

TITLES = {
    "look": "surveying the data",
    "text": "text tokenizer",
    "pictures": "decoding the images",
    "image_tokenizer": "image tokenizer",
    "tokens": "encoding images and captions",
    "transformer": "transformer",
    "model": "assembling the model",
}
WORDINGS = 8  # paraphrases of each caption, so that the model also learns other wordings
SAMPLED = 8  # captions of the sample sheet, four images each


def _is_used(path: Path) -> bool:
    """Whether a path is a file, or a directory that contains more than a lock."""
    return path.exists() and (not path.is_dir() or any(entry.name != LOCK for entry in path.iterdir()))


class Stopped(Exception):
    """A signal stopped a stage; all results so far are kept."""


Progress = Callable[[str], contextlib.AbstractContextManager[Callable[[int, int], None]]]


@contextlib.contextmanager
def silent(title: str) -> Iterator[Callable[[int, int], None]]:
    """No progress bar."""
    yield lambda done, total: None


class TrainOn:
    """A run from a data set to a family at ``out``; ``work`` is the directory of intermediate results."""

    def __init__(
        self,
        settings: Settings,
        out: Path,
        work: Path | None = None,
        console: Console | None = None,
        progress: Progress = silent,
    ) -> None:
        self.settings, self.out = settings, out
        self.work = work or out.with_name(out.name + ".work")
        self.console, self.progress = console or Console(stderr=True), progress
        self.device = pick_device(settings.device)
        self.size: Size = named_size(settings.size)
        self.start = ModelBundle.find(settings.start) if settings.start else None
        self.known = _known(self.start) if self.start else None
        if settings.lora and not self.start:
            raise CogViewError("--lora adapts a model: name it with --from")
        self._recipes(1)  # to report an error in --set first
        self.plain, self.source = self._sources()
        self.state = self._state()

    # ------------------------------------------------------------------------------------------ the run

    def run(self, until: Stage = "model") -> ModelBundle | None:
        """Run the unfinished stages up to ``until``; returns the family if all are finished.

        Raises Stopped after a signal, CogViewError if the data or the settings are unusable.
        """
        if "model" in self.state.done and (self.out / FILE).is_file():
            self._say(f"{self.out} is already finished; --restart trains it again")
            return ModelBundle(self.out)
        self.work.mkdir(parents=True, exist_ok=True)
        with locked(self.work):
            for number, stage in enumerate(STAGES, 1):
                if stage not in self.state.done:
                    self._say(f"[{number}/{len(STAGES)}] {TITLES[stage]}{self._left(stage)}")
                    getattr(self, f"_{stage}")()
                    self._save(done=(*self.state.done, stage))
                if stage == until:
                    break
        return ModelBundle(self.out) if "model" in self.state.done else None

    def _left(self, stage: Stage) -> str:
        """The estimated time of a training stage, and until the end of all training."""
        cost = self.state.cost
        if cost is None or stage not in ("image_tokenizer", "transformer"):
            return ""
        seconds = cost.tokenizer_seconds if stage == "image_tokenizer" else cost.transformer_seconds
        rest = cost.seconds if stage == "image_tokenizer" else seconds
        return f": about {duration(seconds)}, {duration(rest)} to the end of the training (estimates)"

    def _sources(self) -> tuple[Source, Source]:
        """The original data, and the data for training, in which every image has a caption."""
        settings = self.settings
        columns = Columns.parse(settings.columns)
        total = len(open_source(settings.source, columns, settings.images, 0))
        plain = open_source(settings.source, columns, settings.images, held_out(total))
        if settings.captions:
            plain = CaptionedSource(plain, settings.captions)
        named: Source = plain if settings.unnamed == "skip" else NamedSource(plain)
        if settings.translate:
            named = TranslatedSource(named, command_translator(settings.translate), name=settings.translate)
        return plain, named

    def _state(self) -> State:
        path = self.work / STATE
        if not path.is_file():
            for place, option in ((self.out, "--out"), (self.work, "--work")):
                if _is_used(place):
                    raise CogViewError(f"{place} already exists; choose another {option}, or remove it")
            return State(settings=self.settings, fingerprint=self.source.fingerprint())
        state = read_json(State, path)
        changed = state.settings != self.settings or state.fingerprint != self.source.fingerprint()
        if changed and "model" not in state.done and not self._started():
            return State(settings=self.settings, fingerprint=self.source.fingerprint())
        check_settings(state.settings, self.settings, self.work)
        if "model" not in state.done and state.fingerprint != self.source.fingerprint():
            raise CogViewError(
                f"{self.settings.source} has changed since {self.work} was started; use --restart"
            )
        return state

    def _started(self) -> bool:
        """Whether there are results besides the survey."""
        later = ("pictures", "image_tokenizer", "tokens", "transformer")
        return any((self.work / name).exists() for name in later)

    def _save(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)
        self.work.mkdir(parents=True, exist_ok=True)
        write_atomically(self.work / STATE, self.state.model_dump_json(indent=1) + "\n")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    # ------------------------------------------------------------------------------------------ the stages

    def _look(self) -> None:
        with self.progress("reading") as progress:
            result = survey(self.plain, self.source, self.settings.limits, progress)
        for line in describe(result, self.image_size):
            self._say(f"  {line}")
        self._save(survey=result)

    def _text(self) -> None:
        texts = [caption.text for record in self.reworded.records() for caption in record.captions]
        self.work.mkdir(parents=True, exist_ok=True)
        known = self.start.text_tokenizer() if self.start else None
        tokenizer = known or fit_text_tokenizer(texts, self.size.pieces)
        tokenizer.save(self.work / "text.model")
        limit = self._format(tokenizer).text_limit
        lengths = Lengths.of(texts[:100_000], tokenizer, limit)
        self._save(lengths=lengths, cost=self._cost(tokenizer, lengths))
        for line in self._plan_lines(tokenizer, limit):
            self._say(f"  {line}")

    def _pictures(self) -> None:
        if self.start:
            return
        with self.progress("decoding") as progress:
            build_image_cache(
                self.plain,
                self.work / "pictures",
                self._preprocessing(),
                self.settings.limits,
                progress,
                workers_for(self.plain),
            )

    def _image_tokenizer(self) -> None:
        recipe, _ = self.recipes()
        if recipe is None:
            self._say(f"  that of {self.settings.start} is kept: its model was trained with it")
            return
        self._train(recipe)

    def _tokens(self) -> None:
        settings = BuildSettings(
            preprocessing=self._preprocessing(),
            limits=self.settings.limits,
            workers=workers_for(self.source),
        )
        images = ImageTokenizer.from_directory(self.image_tokenizer_path).to(self.device)
        texts = TextTokenizer.from_file(self.work / "text.model")
        with self.progress("encoding") as progress:
            build(
                self.reworded,
                self.work / "tokens",
                OnDevice(images, self.device),
                texts,
                settings,
                False,
                progress,
            )

    def _transformer(self) -> None:
        _, recipe = self.recipes()
        if recipe.samples is None:
            recipe = recipe.model_copy(update={"samples": self._samples()})
        self._train(recipe)

    def _samples(self) -> Samples | None:
        """Samples of some of the captions during the training of the transformer."""
        assert self.state.survey is not None
        path = self.work / "text.model"
        texts = TextTokenizer.from_file(path)
        limit = self._format(texts).text_limit
        prompts = [text for text in self.state.survey.examples[:SAMPLED] if len(texts.encode(text)) <= limit]
        if not prompts:
            return None
        return Samples(
            image_tokenizer=self.image_tokenizer_path,
            text_tokenizer=path,
            prompts=tuple(prompts),
            each=2,
            sampling=SamplingParams(top_k=100, guidance_scale=2.0),
        )

    def _model(self) -> None:
        facts = last_evaluations(self.work)
        self._save(facts=facts)
        least, last = (facts.get(f"transformer_{name}", 0.0) for name in ("least_loss", "loss"))
        if last > 1.15 * least > 0:
            self._say(
                f"  overfitted: the loss on held-out images rose from {least:.2f} to {last:.2f}; "
                "for new images use more data, or fewer steps (--set transformer.steps=…)"
            )
        card = self.work / "card.md"
        write_card(card, self.out.name, self.state.settings.model_dump(mode="json"), self.state.survey, facts)
        runs = {"base": self.work / "transformer"}
        settings = FamilySettings(defaults=SamplingParams(top_k=100, guidance_scale=2.0))
        if self.start:
            settings = FamilySettings()
        assemble(
            self.out,
            runs,
            self.image_tokenizer_path,
            self.work / "text.model",
            start=self.start_alone,
            settings=settings,
            card=card,
        )
        self._write_samples()

    # ------------------------------------------------------------------------------------------ parts

    @property
    def reworded(self) -> Source:
        """The data for the transformer, with paraphrases of every caption."""
        return RewordedSource(self.source, WORDINGS)

    @property
    def image_size(self) -> int:
        """Side of the model's images in pixels."""
        return self.known[1].image_size if self.known else self.size.tokenizer.image_size

    @property
    def image_tokenizer_path(self) -> Path:
        """The directory of the image tokenizer."""
        if self.start:
            return self.start.directory / self.start.config.image_tokenizer
        return self.work / "image_tokenizer" / "model"

    @property
    def start_alone(self) -> ModelBundle | None:
        """The family that training started from, with only the role that is trained."""
        if self.start is None:
            return None
        family = ModelBundle(self.start.directory)
        base = {"base": family.config.roles["base"]}
        family.config = family.config.model_copy(update={"roles": base, "adapters": {}})
        return family

    def _preprocessing(self) -> Preprocessing:
        return Preprocessing(size=self.image_size, resample=self.settings.resample)

    def recipes(self) -> tuple[ImageTokenizerRecipe | None, TransformerRecipe]:
        """Both recipes for the surveyed data."""
        assert self.state.survey is not None
        return self._recipes(self.state.survey.pictures)

    def _recipes(self, images: int) -> tuple[ImageTokenizerRecipe | None, TransformerRecipe]:
        seed = self.settings.seed
        first = None if self.start else tokenizer_recipe(self.size, images, str(self.work / "pictures"), seed)
        second = transformer_recipe(
            self.size,
            images,
            str(self.work / "tokens"),
            seed,
            self.start,
            self.settings.lora,
        )
        for fields in (first, second):
            if fields is not None:
                fields["device"] = self.settings.device
        return finish_recipes(first, second, self.settings.overrides)

    def _format(self, text: TextTokenizer) -> SequenceFormat:
        """The sequence format of the model."""
        if self.known:
            return self.known[0]
        recipe, other = self.recipes()
        assert recipe is not None
        vocabulary = Vocabulary(image_codes=recipe.model.codes, text_pieces=text.pieces)
        fields = other.format.model_dump(exclude={"window"})
        return SequenceFormat(vocabulary=vocabulary, grid=recipe.model.grid, **fields)

    def _cost(self, text: TextTokenizer, lengths: Lengths) -> Cost:
        assert self.state.survey is not None
        first, second = self.recipes()
        format, images = self._format(text), self.state.survey.pictures
        tokenizer = first.model if first else self.known[1] if self.known else self.size.tokenizer
        tokens = min(lengths.median, format.text_limit)
        with self.progress("timing some training steps"):
            seconds = transformer_seconds(second, format, tokens), tokenizer_seconds(first) if first else 0.0
        held = round(held_out(images) * images)
        return estimate(
            tokenizer,
            _stage(first, seconds[1], held) if first else Part(),
            self._architecture(second, format),
            _stage(second, seconds[0], min(held, second.validation.items)),
            format.codes + 4 + tokens,
        )

    def _architecture(self, recipe: TransformerRecipe, format: SequenceFormat) -> TransformerConfig:
        if self.start:
            return self.start.check("base")
        assert recipe.model is not None
        sizes = {"vocab_size": format.vocabulary.padded_size, "max_positions": format.max_positions}
        return TransformerConfig.model_validate({**recipe.model.model_dump(), **sizes})

    def _plan_lines(self, text: TextTokenizer, limit: int) -> list[str]:
        """The shape of a sample, the models, and the cost of training as text lines."""
        first, second = self.recipes()
        format, lengths, cost = self._format(text), self.state.lengths, self.state.cost
        assert lengths is not None and cost is not None
        cut = f"; {lengths.over:,} are longer and are truncated" if lengths.over else ""
        grid = f"{format.grid[0]} x {format.grid[1]}"
        codes = f"{grid} = {format.codes} codes of {format.vocabulary.image_codes:,}"
        shortest, longest = (format.codes + 4 + min(n, limit) for n in (lengths.least, lengths.most))
        length = f"{shortest} to {longest}" if shortest < longest else f"{longest}"
        size = f"{cost.tokenizer_parameters / 1e6:.1f} M parameters"
        trained = (
            f"{first.steps:,} steps of {first.batch_size}" if first else f"taken from {self.settings.start}"
        )
        adapted = f", LoRA of rank {self.settings.lora}" if self.settings.lora else ""
        started = f" from {self.settings.start}{adapted}" if self.start else ""
        time, memory = duration(cost.seconds), cost.memory / 2**30
        return [
            f"an image becomes    {self.image_size} x {self.image_size} px, {codes}",
            f"a caption becomes   {lengths.least} to {lengths.most} tokens of {text.pieces:,}, "
            f"median {lengths.median}; {limit} are read{cut}",
            f"a sample is         [ROI1] caption {format.size} [BOI1] codes [EOI1]: {length} tokens, all "
            "predicted",
            f"image tokenizer     {size}, {trained}",
            f"transformer         {cost.transformer_parameters / 1e6:.1f} M parameters{started}, "
            f"{second.steps:,} steps of {second.batch_size}",
            f"cost                about {time} here, {memory:.1f} GiB of memory (estimates)",
        ]

    # ------------------------------------------------------------------------------------------ training

    def _train(self, recipe: Recipe) -> None:
        """Train, or resume training; raises Stopped after a signal."""
        directory = self.work / ("image_tokenizer" if recipe.task == "image_tokenizer" else "transformer")
        started = (directory / "checkpoints").is_dir() or (directory / "metrics.jsonl").is_file()
        prepare_directory(recipe, directory, started)
        task: Task = task_class(recipe.task)(recipe)
        outcome = Trainer(task, recipe, directory, self.console).fit(started)
        if outcome.stopped:
            raise Stopped(outcome.stopped)

    def _write_samples(self) -> None:
        """Write a sheet of images that the finished model generates from some of the captions."""
        assert self.state.survey is not None
        model = Pipeline.from_pretrained(self.out)
        prompts = [text for text in self.state.survey.examples[:SAMPLED] if self._fits(model, text)]
        if not prompts:
            return
        with self.progress("generating") as progress:
            images = model.generate(prompts, n=4, seed=self.settings.seed, progress=progress)
        width, height = images[0].image.size
        sheet = Image.new("RGB", (4 * width, len(prompts) * height), "white")
        for number, generated in enumerate(images):
            sheet.paste(generated.image, (number % 4 * width, number // 4 * height))
        write_image(self.out / SAMPLES, sheet)
        self._say(f"  {self.out / SAMPLES}: {'; '.join(prompts)}")

    @staticmethod
    def _fits(model: Pipeline, text: str) -> bool:
        return len(model.text_tokenizer.encode(text)) <= model.text_to_image.format.text_limit


def _stage(recipe: Recipe, seconds: float, evaluated: int) -> Part:
    """A run of this recipe, for estimating its cost."""
    every = recipe.intervals.evaluate
    return Part(
        steps=recipe.steps,
        rows=recipe.batch_size * recipe.accumulation,
        seconds=seconds,
        evaluated=evaluated,
        evaluations=recipe.steps // every if every else 0,
    )


def _known(start: ModelBundle) -> tuple[SequenceFormat, ImageTokenizerConfig]:
    """Sequence format and tokenizer configuration of a family to start from; raises CogViewError if it is of
    an unsupported kind."""
    format, tokenizer = of_type(start.role("base").sequences, SequenceFormat), start.image_tokenizer()
    if format is None or format.kind != "text_to_image":
        raise CogViewError(f"--from {start.config.name}: its base does not generate images code by code")
    if not isinstance(tokenizer, ImageTokenizer):
        raise CogViewError(f"--from {start.config.name}: its image tokenizer has several scales")
    return format, tokenizer.config
