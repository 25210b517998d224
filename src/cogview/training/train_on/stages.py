"""The stages from a folder to a family, each skipped when it is done and resumed where it was stopped.

=================  ================================================================  =====================
stage              leaves in the work directory                                      may be stopped
=================  ================================================================  =====================
look               the survey, in ``state.json``                                     starts again
text               ``text.model``                                                    starts again
images           ``pictures/``, decoded once                                       starts again
image_tokenizer    ``image_tokenizer/``, a run of `cogview train`                    at any step
tokens             ``tokens/``, token shards                                         after any shard
transformer        ``transformer/``, a run of `cogview train`                        at any step
model              the family directory, with its card and samples.png               starts again
=================  ================================================================  =====================

Every stage writes aside and renames, and ``state.json`` is written after it, so that a kill at any moment
costs at most the work since the last checkpoint.
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
from cogview.training.locks import LOCK, held
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
    "look": "looking at the data",
    "text": "text tokenizer",
    "pictures": "decoding the pictures",
    "image_tokenizer": "image tokenizer",
    "tokens": "encoding pictures and captions",
    "transformer": "transformer",
    "model": "putting the model together",
}
WORDINGS = 8  # of each caption, so that the model knows it in other words too
DRAWN = 8  # captions drawn for the sample sheet, four images each


def _holds_something(place: Path) -> bool:
    """Whether there is a file, or a directory that is not empty but for a lock."""
    return place.exists() and (not place.is_dir() or any(path.name != LOCK for path in place.iterdir()))


class Stopped(Exception):
    """A signal ended a stage early; everything so far is kept."""


Progress = Callable[[str], contextlib.AbstractContextManager[Callable[[int, int], None]]]


@contextlib.contextmanager
def silent(title: str) -> Iterator[Callable[[int, int], None]]:
    """No progress bar."""
    yield lambda done, total: None


class TrainOn:
    """One run from a data set to a family at ``out``; ``work`` holds what is between."""

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
        self._recipes(1)  # a mistake in --set is reported before anything else
        self.plain, self.source = self._sources()
        self.state = self._state()

    # ------------------------------------------------------------------------------------------ the whole

    def run(self, until: Stage = "model") -> ModelBundle | None:
        """Do every stage up to ``until`` that is not done; the family when all are.

        Raises Stopped where a signal came, CogViewError where the data or the settings cannot work.
        """
        if "model" in self.state.done and (self.out / FILE).is_file():
            self._say(f"{self.out} is finished already; --restart trains it again")
            return ModelBundle(self.out)
        self.work.mkdir(parents=True, exist_ok=True)
        with held(self.work):
            for number, stage in enumerate(STAGES, 1):
                if stage not in self.state.done:
                    self._say(f"[{number}/{len(STAGES)}] {TITLES[stage]}{self._left(stage)}")
                    getattr(self, f"_{stage}")()
                    self._save(done=(*self.state.done, stage))
                if stage == until:
                    break
        return ModelBundle(self.out) if "model" in self.state.done else None

    def _left(self, stage: Stage) -> str:
        """What a training stage, and those after it, were estimated to take."""
        cost = self.state.cost
        if cost is None or stage not in ("image_tokenizer", "transformer"):
            return ""
        own = cost.tokenizer_seconds if stage == "image_tokenizer" else cost.transformer_seconds
        rest = cost.seconds if stage == "image_tokenizer" else own
        return f": about {duration(own)}, {duration(rest)} to the end of the training (estimates)"

    def _sources(self) -> tuple[Source, Source]:
        """The data as they are, and as they are trained on: every image with a caption."""
        given = self.settings
        total = len(open_source(given.source, Columns.parse(given.columns), given.images, 0))
        plain = open_source(given.source, Columns.parse(given.columns), given.images, held_out(total))
        if given.captions:
            plain = CaptionedSource(plain, given.captions)
        named: Source = plain if given.unnamed == "skip" else NamedSource(plain)
        if given.translate:
            named = TranslatedSource(named, command_translator(given.translate), name=given.translate)
        return plain, named

    def _state(self) -> State:
        path = self.work / STATE
        if not path.is_file():
            for place, option in ((self.out, "--out"), (self.work, "--work")):
                if _holds_something(place):
                    raise CogViewError(
                        f"{place} is there already; choose another {option}, or remove it yourself"
                    )
            return State(settings=self.settings, fingerprint=self.source.fingerprint())
        state = read_json(State, path)
        changed = state.settings != self.settings or state.fingerprint != self.source.fingerprint()
        if changed and "model" not in state.done and not self._started():
            return State(settings=self.settings, fingerprint=self.source.fingerprint())
        check_settings(state.settings, self.settings, self.work)
        if "model" not in state.done and state.fingerprint != self.source.fingerprint():
            raise CogViewError(f"{self.settings.source} changed since {self.work} was begun; --restart")
        return state

    def _started(self) -> bool:
        """Whether there is more than a look to lose."""
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
            found = survey(self.plain, self.source, self.settings.limits, progress)
        for line in describe(found, self.image_size):
            self._say(f"  {line}")
        self._save(survey=found)

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
            self._say(f"  the one of {self.settings.start} stays: its model knows no other")
            return
        self._train(recipe)

    def _tokens(self) -> None:
        settings = BuildSettings(
            preprocessing=self._preprocessing(),
            limits=self.settings.limits,
            workers=workers_for(self.source),
        )
        images = ImageTokenizer.from_directory(self.images_at).to(self.device)
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
        """Some of the captions, drawn again and again while the transformer is trained."""
        assert self.state.survey is not None
        path = self.work / "text.model"
        texts = TextTokenizer.from_file(path)
        limit = self._format(texts).text_limit
        prompts = [text for text in self.state.survey.examples[:DRAWN] if len(texts.encode(text)) <= limit]
        if not prompts:
            return None
        return Samples(
            image_tokenizer=self.images_at,
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
                f"  learnt by heart: the loss on held-out pictures went from {least:.2f} up to {last:.2f}; "
                "for new pictures take more data, or fewer steps (--set transformer.steps=…)"
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
            self.images_at,
            self.work / "text.model",
            start=self.start_alone,
            settings=settings,
            card=card,
        )
        self._draw()

    # ------------------------------------------------------------------------------------------ parts

    @property
    def reworded(self) -> Source:
        """The data as the transformer reads them: every caption in other wordings as well."""
        return RewordedSource(self.source, WORDINGS)

    @property
    def image_size(self) -> int:
        """Side of the images as the model sees them."""
        return self.known[1].image_size if self.known else self.size.tokenizer.image_size

    @property
    def images_at(self) -> Path:
        """Where the image tokenizer is."""
        if self.start:
            return self.start.directory / self.start.config.image_tokenizer
        return self.work / "image_tokenizer" / "model"

    @property
    def start_alone(self) -> ModelBundle | None:
        """The family that was started from, with no role but the one that is trained again."""
        if self.start is None:
            return None
        family = ModelBundle(self.start.directory)
        only = {"base": family.config.roles["base"]}
        family.config = family.config.model_copy(update={"roles": only, "adapters": {}})
        return family

    def _preprocessing(self) -> Preprocessing:
        return Preprocessing(size=self.image_size, resample=self.settings.resample)

    def recipes(self) -> tuple[ImageTokenizerRecipe | None, TransformerRecipe]:
        """Both recipes, as they will be run."""
        assert self.state.survey is not None
        return self._recipes(self.state.survey.pictures)

    def _recipes(self, pictures: int) -> tuple[ImageTokenizerRecipe | None, TransformerRecipe]:
        seed = self.settings.seed
        first = (
            None if self.start else tokenizer_recipe(self.size, pictures, str(self.work / "pictures"), seed)
        )
        second = transformer_recipe(
            self.size,
            pictures,
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
        """The sequences of the model to be."""
        if self.known:
            return self.known[0]
        recipe, other = self.recipes()
        assert recipe is not None
        vocabulary = Vocabulary(image_codes=recipe.model.codes, text_pieces=text.pieces)
        form = other.format.model_dump(exclude={"window"})
        return SequenceFormat(vocabulary=vocabulary, grid=recipe.model.grid, **form)

    def _cost(self, text: TextTokenizer, lengths: Lengths) -> Cost:
        assert self.state.survey is not None
        first, second = self.recipes()
        form, pictures = self._format(text), self.state.survey.pictures
        images = first.model if first else self.known[1] if self.known else self.size.tokenizer
        pieces = min(lengths.median, form.text_limit)
        with self.progress("timing some training steps"):
            seconds = transformer_seconds(second, form, pieces), tokenizer_seconds(first) if first else 0.0
        held = round(held_out(pictures) * pictures)
        return estimate(
            images,
            _stage(first, seconds[1], held) if first else Part(),
            self._architecture(second, form),
            _stage(second, seconds[0], min(held, second.validation.items)),
            form.codes + 4 + pieces,
        )

    def _architecture(self, recipe: TransformerRecipe, form: SequenceFormat) -> TransformerConfig:
        if self.start:
            return self.start.check("base")
        assert recipe.model is not None
        sizes = {"vocab_size": form.vocabulary.padded_size, "max_positions": form.max_positions}
        return TransformerConfig.model_validate({**recipe.model.model_dump(), **sizes})

    def _plan_lines(self, text: TextTokenizer, limit: int) -> list[str]:
        """What every sample becomes, and what training costs."""
        first, second = self.recipes()
        form, lengths, cost = self._format(text), self.state.lengths, self.state.cost
        assert lengths is not None and cost is not None
        cut = f"; {lengths.over:,} are longer and are cut" if lengths.over else ""
        codes = f"{form.grid[0]} x {form.grid[1]} = {form.codes} codes of {form.vocabulary.image_codes:,}"
        shortest, longest = (form.codes + 4 + min(n, limit) for n in (lengths.least, lengths.most))
        whole = f"{shortest} to {longest}" if shortest < longest else f"{longest}"
        one = f"{cost.tokenizer_parameters / 1e6:.1f} M parameters"
        trained = (
            f"{first.steps:,} steps of {first.batch_size}" if first else f"taken from {self.settings.start}"
        )
        adapted = f", LoRA of rank {self.settings.lora}" if self.settings.lora else ""
        started = f" from {self.settings.start}{adapted}" if self.start else ""
        time, memory = duration(cost.seconds), cost.memory / 2**30
        return [
            f"a picture becomes   {self.image_size} x {self.image_size} px, {codes}",
            f"a caption becomes   {lengths.least} to {lengths.most} pieces of {text.pieces:,}, "
            f"median {lengths.median}; {limit} are read{cut}",
            f"a sample is         [ROI1] caption {form.size} [BOI1] codes [EOI1]: {whole} tokens, all learnt",
            f"image tokenizer     {one}, {trained}",
            f"transformer         {cost.transformer_parameters / 1e6:.1f} M parameters{started}, "
            f"{second.steps:,} steps of {second.batch_size}",
            f"cost                about {time} here, {memory:.1f} GiB of memory (estimates)",
        ]

    # ------------------------------------------------------------------------------------------ training

    def _train(self, recipe: Recipe) -> None:
        """Train, or go on training; Stopped where a signal ended it."""
        directory = self.work / ("image_tokenizer" if recipe.task == "image_tokenizer" else "transformer")
        begun = (directory / "checkpoints").is_dir() or (directory / "metrics.jsonl").is_file()
        prepare_directory(recipe, directory, begun)
        task: Task = task_class(recipe.task)(recipe)
        outcome = Trainer(task, recipe, directory, self.console).fit(begun)
        if outcome.stopped:
            raise Stopped(outcome.stopped)

    def _draw(self) -> None:
        """A sheet of a few of the captions, as the finished model draws them."""
        assert self.state.survey is not None
        model = Pipeline.from_pretrained(self.out)
        prompts = [text for text in self.state.survey.examples[:DRAWN] if self._fits(model, text)]
        if not prompts:
            return
        with self.progress("drawing") as progress:
            pictures = model.generate(prompts, n=4, seed=self.settings.seed, progress=progress)
        width, height = pictures[0].image.size
        sheet = Image.new("RGB", (4 * width, len(prompts) * height), "white")
        for number, picture in enumerate(pictures):
            sheet.paste(picture.image, (number % 4 * width, number // 4 * height))
        write_image(self.out / SAMPLES, sheet)
        self._say(f"  {self.out / SAMPLES}: {'; '.join(prompts)}")

    @staticmethod
    def _fits(model: Pipeline, text: str) -> bool:
        return len(model.text_tokenizer.encode(text)) <= model.text_to_image.format.text_limit


def _stage(recipe: Recipe, seconds: float, evaluated: int) -> Part:
    """A run of this recipe, for the estimate of what it costs."""
    every = recipe.intervals.evaluate
    return Part(
        steps=recipe.steps,
        rows=recipe.batch_size * recipe.accumulation,
        seconds=seconds,
        evaluated=evaluated,
        evaluations=recipe.steps // every if every else 0,
    )


def _known(start: ModelBundle) -> tuple[SequenceFormat, ImageTokenizerConfig]:
    """Sequences and image tokenizer of a family to start from; CogViewError where it is of another kind."""
    form, images = of_type(start.role("base").sequences, SequenceFormat), start.image_tokenizer()
    if form is None or form.kind != "text_to_image":
        raise CogViewError(f"--from {start.config.name}: its base does not draw pictures code by code")
    if not isinstance(images, ImageTokenizer):
        raise CogViewError(f"--from {start.config.name}: its image tokenizer has several levels")
    return form, images.config
