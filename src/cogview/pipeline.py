"""A family of models, ready to use: ``CogView.from_pretrained(name).generate(prompt)``.

Every picture carries what made it (prompt, seed, index, settings, model and its hash), and the same facts
make the same picture again, alone or in any batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import torch

from cogview.config import validate
from cogview.describing import (
    AnyPicture,
    Caption,
    Describing,
    Ranked,
    at_least_one,
    checked_seed,
    spoken,
)
from cogview.enlarging import Enlarging, check_counts
from cogview.errors import CogViewError
from cogview.family import Family, installed
from cogview.generation.engine import Engine, Progress, Watch
from cogview.generation.fairness import FairnessTable, Wording, wording
from cogview.generation.linear import Precision
from cogview.generation.picture import Picture
from cogview.generation.roles import BASE, UPSCALING, Roles
from cogview.generation.settings import Sampling
from cogview.generation.sparse import Sparse
from cogview.generation.text_to_image import draw_codes, paint, styled
from cogview.sequences import SequenceFormat
from cogview.tokenizers.images import AnyImageTokenizer
from cogview.tokenizers.text import TextTokenizer
from cogview.transformer.config import ThreeRegionConfig
from cogview.transformer.lora import apply_adapter
from cogview.transformer.model import Transformer

DEFAULT = "pictogram"
PIPELINES = {"coglm": "cogview.hierarchy:Hierarchy"}  # by the kind of a family's base; others: CogView


@dataclass(frozen=True)
class Wanted:
    """A picture to draw: the prompt as asked, the caption that is read, its random stream, its own facts."""

    prompt: str
    caption: str
    seed: int
    index: int
    facts: dict[str, Any]


class CogView(Describing, Enlarging):
    """A model family in memory, each of its models read at first use. Made by :meth:`from_pretrained`.

    Attributes:
        family: its directory and configuration.
        text: the text tokenizer.
        images: the image tokenizer.
        roles: its models.
    """

    def __init__(
        self,
        family: Family,
        device: str | torch.device,
        precision: Precision,
        deterministic: bool,
        lora: tuple[Path, float] | None = None,
        sparse: ThreeRegionConfig | None = None,
    ) -> None:
        self.family, self.precision = family, precision
        self.roles = Roles(family, torch.device(device), precision, deterministic)
        self.text: TextTokenizer = family.text_tokenizer()
        self.images: AnyImageTokenizer = family.image_tokenizer().to(device)
        self._check_sizes()
        self.roles.check()
        self.adapter: dict[str, Any] = {} if sparse is None else {"sparse": sparse.model_dump(mode="json")}
        self._lora, self._sparse = lora, sparse
        if lora is not None:
            self.engine  # noqa: B018  (an adapter that does not fit is refused at once)

    @cached_property
    def form(self) -> SequenceFormat:
        """The sequences of the base model; CogViewError where the family has none."""
        return self.roles.form(BASE)

    @cached_property
    def engine(self) -> Engine:
        """The base model, read at first use; CogViewError where the family has none."""
        form, model = self.form, self.roles.transformer(BASE)
        if self._lora is not None:
            self.adapter = self.adapter | {"lora": _adapt(model, *self._lora)}
        codes = form.vocabulary.image_codes
        sparse = None if self._sparse is None else Sparse(self._sparse, codes)
        return self.roles.pack(model, slice(0, codes), sparse)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = DEFAULT,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        deterministic: bool = False,
        lora: str | Path | None = None,
        lora_strength: float = 1.0,
        sparse: ThreeRegionConfig | None = None,
    ) -> CogView:
        """Load a family by name (in the package or the user's models) or from its directory.

        What it gives is the pipeline for the kind of family, with the same methods for each: what a family
        cannot do is a CogViewError.

        Args:
            device: where to compute; a GPU if there is one, else the CPU.
            precision: ``fp32``; ``bf16`` or ``fp16`` for half the memory, for GPUs and (bf16) processors that
                have instructions for it; ``int8`` for weights of a byte on a CPU. All but the first are
                slightly different.
            deterministic: exactly the same tokens in any batch, at some cost; otherwise rounding may change
                a token where two were nearly tied.
            lora: one of the family's adapters by name, or the directory of one (a run of `cogview train`).
            lora_strength: how much of it; 0 is the model itself.
            sparse: draw with three-region sparse attention, the released inference form (appendix B);
                default: every token sees all before it.

        Raises:
            CogViewError: no such model, or a file is missing, damaged or foreign.
        """
        if precision not in get_args(Precision):
            raise CogViewError(f"unknown precision {precision!r}; there are {', '.join(get_args(Precision))}")
        if lora is None and lora_strength != 1.0:
            raise CogViewError("lora_strength is of an adapter; name one with lora")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        family = Family.find(name)
        adapter = None if lora is None else (family.adapter(lora), lora_strength)
        kind = _pipeline_of(family) if cls is CogView else cls
        return kind(family, device, precision, deterministic, adapter, sparse)

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 over the family's weights and configurations."""
        return self.family.hash

    @property
    def styles(self) -> dict[str, dict[str, str]]:
        """The styles to choose from: name to {language: phrase}."""
        return self.family.config.styles

    @property
    def enlarges(self) -> bool:
        """Whether the family enlarges what it draws, in steps of its own."""
        return False

    def generate(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        *,
        style: str | None = None,
        settings: Mapping[str, float | None] | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        clusters: int | None = None,
        cluster_temperature: float | None = None,
        emphasis: float | None = None,
        first: int = 0,
        best_of: int = 1,
        first_stage_only: bool = False,
        truncate: bool = False,
        order: str | None = None,
        fairness: str | Path | FairnessTable | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
        on_partial: Callable[[Picture], None] | None = None,
    ) -> list[Picture]:
        """Draw ``n`` pictures for each prompt, in the order of the prompts; alike for every kind of family.

        Args:
            prompt: Chinese or English, one or several.
            seed: with the picture's index it decides the picture; default: a new one each time.
            style: one of :attr:`styles`, by its name or by its words.
            settings: of drawing, by name, as in :class:`Sampling`; default: the style's, then the family's.
            temperature ... emphasis: the same one by one, over ``settings``.
            first: index of the first picture; to draw picture 3 of a prompt alone, ``n=1, first=3``.
            best_of: draw so many for each picture wanted and keep the n of a prompt that the family's caption
                model finds the prompt describes best, the best first (CogView, section 3.2).
            first_stage_only: of a family that enlarges what it draws, leave pictures small.
            truncate: cut a prompt that is too long; otherwise it is an error.
            order: of the iterative step of a family that has one (``released``, ``diagonal``,
                ``confidence``).
            fairness: a table of proportions (its file, or ``world``) by which words about people are added to
                prompts that lack them (CogView, appendix D); each picture tells what was drawn. With
                ``best_of``, each picture is then the best of its own candidates, which share their words.
            batch_size: the most pictures to draw at a time; it does not change them.
            progress: called with the tokens drawn so far and their total, of all steps.
            on_partial: called with each picture as soon as it is ready, before the rest is drawn.

        Raises:
            CogViewError: an empty or too long prompt, an unknown style, a setting out of range, a step that
                the family does not have.
        """
        own = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
        own |= {"clusters": clusters, "cluster_temperature": cluster_temperature, "emphasis": emphasis}
        given = {**(settings or {}), **{name: value for name, value in own.items() if value is not None}}
        pictures = []
        for picture in self.draw_large(
            prompt, n, seed, style, given, first, batch_size, progress, best_of, first_stage_only,
            truncate, order, fairness,
        ):  # fmt: skip
            pictures.append(picture)
            if on_partial is not None:
                on_partial(picture)
        return pictures

    def draw_large(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        style: str | None = None,
        settings: Mapping[str, float | None] | None = None,
        first: int = 0,
        batch_size: int | None = None,
        progress: Progress | None = None,
        best_of: int = 1,
        first_stage_only: bool = False,
        truncate: bool = False,
        order: str | None = None,
        fairness: str | Path | FairnessTable | None = None,
    ) -> Iterator[Picture]:
        """:meth:`generate` as an iterator; everything is checked before it is returned."""
        if first_stage_only or order is not None:
            raise CogViewError(
                f"{self.family.config.name} draws in one step; leave out first_stage_only and order"
            )
        texts = self._cut(prompt, style) if truncate else prompt
        return self.draw(texts, n, seed, style, settings, first, batch_size, progress, best_of, fairness)

    def _cut(self, prompt: str | Sequence[str], style: str | None) -> list[str]:
        """All prompts, shortened."""
        return [self.shortened(text, style) for text in spoken(prompt)]

    def shortened(self, prompt: str, style: str | None = None) -> str:
        """A prompt cut at its end so that with its style the model reads all of it."""
        limit, words = self.form.text_limit, self.text.encode(prompt)
        while len(self.text.encode(self.caption_for(prompt, style))) > limit and len(words) > 1:
            excess = len(self.text.encode(self.caption_for(prompt, style))) - limit
            words = words[: max(1, len(words) - excess)]
            prompt = self.text.decode(words)
        return prompt

    def edit(self, picture: AnyPicture, prompt: str, **more: Any) -> list[Picture]:
        """Draw what is masked anew (:meth:`CogView2.edit`); CogViewError: this family cannot."""
        raise self._cannot_edit()

    def vary(self, picture: AnyPicture, prompt: str = "", **more: Any) -> list[Picture]:
        """Variations of a picture (:meth:`CogView2.vary`); CogViewError: this family cannot."""
        raise self._cannot_edit()

    def _cannot_edit(self) -> CogViewError:
        able = [name for name, place in installed().items() if _kind(Family(place)) in PIPELINES]
        return CogViewError(
            f"{self.family.config.name} cannot edit: its {BASE} model only draws ({_kind(self.family)}); "
            f"take a family whose {BASE} is a CogLM, such as {', '.join(able) or 'pictogram-2'}"
        )

    def draw(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        style: str | None = None,
        settings: Mapping[str, float | None] | None = None,
        first: int = 0,
        batch_size: int | None = None,
        progress: Progress | None = None,
        best_of: int = 1,
        fairness: str | Path | FairnessTable | None = None,
    ) -> Iterator[Picture]:
        """:meth:`generate` as an iterator, of the first step alone; everything is checked at once."""
        prompts = spoken(prompt)
        at_least_one(n=n, best_of=best_of)
        check_counts(prompts, n * best_of, first, batch_size)
        seed = checked_seed(seed)
        words = wording(fairness, seed, best_of)
        asked = [(text, index) for text in prompts for index in range(first, first + n * best_of)]
        wanted = [self.wanted(text, seed, index, style, words) for text, index in asked]
        drawn = self.draw_wanted(wanted, self.sampling(settings or {}), batch_size, progress)
        if best_of == 1:
            return drawn
        keep = n if fairness is None else 1
        return self._best([w.caption for w in wanted[:: keep * best_of]], drawn, keep, best_of)

    def wanted(
        self, prompt: str, seed: int, index: int, style: str | None = None, words: Wording | None = None
    ) -> Wanted:
        """One picture of a request, as it is worded; raises as :meth:`caption_for`."""
        words = words or wording(None, seed)
        made = words.replace(prompt, index)
        facts = {"style": style, **words.facts(made)}
        return Wanted(prompt, self.caption_for(made.text, style), seed, index, facts)

    def draw_wanted(
        self,
        wanted: Sequence[Wanted],
        sampling: Sampling,
        batch_size: int | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> Iterator[Picture]:
        """The pictures of one request or of several, in order; each caption is read once.

        ``watch`` is called after each token with the pictures' numbers and their codes so far
        (:meth:`Engine.draw`). Raises CogViewError at once for a caption that is too long.
        """
        captions = {
            caption: number for number, caption in enumerate(dict.fromkeys(w.caption for w in wanted))
        }
        pieces = [self.encode(caption) for caption in captions]
        jobs = [(captions[w.caption], w.seed, w.index) for w in wanted]
        facts = {**sampling.model_dump(), "style": None, **self._ways()}
        drawn = draw_codes(self.engine, self.form, pieces, jobs, sampling, batch_size, progress, watch)
        return (
            Picture(
                image=paint(self.images, codes, self.form.grid),
                codes=codes,
                prompt=wanted[job].prompt,
                caption=wanted[job].caption,
                seed=wanted[job].seed,
                index=wanted[job].index,
                settings={**facts, **wanted[job].facts},
                model=self.family.config.name,
                model_hash=self.model_hash,
            )
            for job, codes in drawn
        )

    def _best(
        self, captions: Sequence[str], drawn: Iterator[Picture], keep: int, best_of: int
    ) -> Iterator[Picture]:
        """The best ``keep`` of each caption's ``keep * best_of``, as soon as these are drawn."""
        for caption in captions:
            self.scored_pieces(caption)  # refused before anything is drawn

        def choose() -> Iterator[Picture]:
            for _ in captions:
                yield from self.best_of(list(itertools.islice(drawn, keep * best_of)), keep)

        return choose()

    def caption_for(self, prompt: str, style: str | None = None) -> str:
        """What the model reads for a prompt; CogViewError for an empty one or an unknown style."""
        [prompt] = spoken(prompt)
        prompt = prompt.strip()
        if not prompt:
            raise CogViewError("the prompt is empty; say what to draw")
        if style is None:
            return prompt
        return styled(prompt, self.style(style), self.family.config.templates)

    def style(self, name: str) -> dict[str, str]:
        """A style's words by language, found by its name or by its words."""
        return self.family.config.style(name)

    def encode(self, caption: str, form: SequenceFormat | None = None) -> list[int]:
        """A caption's text pieces; CogViewError where they are more than the model (of ``form``) reads."""
        pieces, limit = self.text.encode(caption), (form or self.form).text_limit
        if len(pieces) > limit:
            shown = caption if len(caption) <= 40 else caption[:40] + "…"
            raise CogViewError(
                f"the prompt {shown!r} has {len(pieces)} tokens and the model reads {limit}; shorten it"
            )
        return pieces

    def sampling(self, settings: Mapping[str, float | None]) -> Sampling:
        """The family's defaults with the settings that are not None; CogViewError names a wrong one."""
        given = {name: value for name, value in settings.items() if value is not None}
        return validate(Sampling, self.family.config.defaults.model_dump() | given, "sampling")

    def sampling_for(self, settings: Mapping[str, float | None], style: str | None = None) -> Sampling:
        """:meth:`sampling` in a style, where the family has settings that suit it."""
        return self.sampling(settings)

    def _ways(self) -> dict[str, Any]:
        """How it is computed, as far as the result may depend on it."""
        return {"precision": self.precision, "deterministic": self.roles.deterministic, **self.adapter}

    def _check_sizes(self) -> None:
        """Tokenizers, vocabulary and sequences have to go together."""
        vocabulary = self.family.config.vocabulary
        for what, found, wanted in (
            ("image codes", self.images.codes, vocabulary.image_codes),
            ("text pieces", self.text.pieces, vocabulary.text_pieces),
        ):
            if found != wanted:
                raise CogViewError(
                    f"{self.family.directory}: the tokenizer has {found} {what}, family.json says {wanted}"
                )


def _kind(family: Family) -> str:
    """The kind of sequences of a family's base model; "" where it has none."""
    base = family.config.roles.get(BASE)
    return "" if base is None else base.sequences.kind


def _pipeline_of(family: Family) -> type[CogView]:
    """The class that runs a family."""
    module, _, name = PIPELINES.get(_kind(family), "cogview.pipeline:CogView").partition(":")
    found: type[CogView] = getattr(import_module(module), name)
    return found


def _adapt(model: Transformer, directory: Path, strength: float) -> dict[str, Any]:
    """Add an adapter to the weights; what is told of it in every picture."""
    found = apply_adapter(model, directory, strength)
    named = directory.parent if directory.name == "model" else directory
    return {"name": named.resolve().name, "hash": found[:16], "strength": strength}


__all__ = ["BASE", "DEFAULT", "UPSCALING", "Caption", "CogView", "Picture", "Ranked", "Wanted"]
