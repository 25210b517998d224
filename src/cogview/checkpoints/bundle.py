"""A family of models: one directory that names its models and shares their tokenizers.

::

    pictogram/
      family.json        what follows, checked whole before a weight is read
      text.model         SentencePiece
      image_tokenizer/   config.json, model.safetensors
      base/              config.json, model.safetensors: one directory a role
      card.md            data, licences, measurements, limits

``family.json`` holds the vocabulary, each role's sequence format, the named styles, the sampling defaults and
the fingerprints of both tokenizers: a file that does not belong is one clear error, never a wrong image.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from cogview.checkpoints.prompt_help import FILE as WORDS
from cogview.checkpoints.prompt_help import PromptHelp
from cogview.checkpoints.provenance import model_hash
from cogview.config import Check, Config, cache_dir, read_json
from cogview.errors import CogViewError, UnsupportedTask
from cogview.sequences import CogLMFormat, DirectFormat, IterativeFormat, SequenceFormat
from cogview.types import PartialParams, SamplingParams
from cogview.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

    from cogview.tokenizers.loading import AnyImageTokenizer
    from cogview.tokenizers.text import TextTokenizer
    from cogview.transformer.model import Transformer, TransformerConfig

FILE, CARD = "family.json", "card.md"
MODEL, LORA = ("config.json", "model.safetensors"), ("lora.json", "lora.safetensors")
BASE, CAPTION, COGLM = "base", "caption", "coglm"
UPSCALING, DIRECT, ITERATIVE = "super_resolution", "direct", "iterative"
DOES = {
    "generate": "generate pictures",
    "edit": "edit pictures",
    "vary": "vary pictures",
    "upscale": "enlarge pictures",
    "caption": "describe pictures",
    "score": "score pictures",
    "rerank": "score pictures",
}
OF_TASK = {  # what a task samples with where neither call nor style says otherwise
    "caption": SamplingParams(temperature=1.0, top_k=0, top_p=1.0, clusters=0),
    "upscale": SamplingParams(guidance_scale=1.0),
}
NAMED_WORDS = 5  # of those that a model hardly knows
LANGUAGES = {"en": "English", "zh": "Chinese"}
PACKAGED = Path(__file__).parent.parent / "models"


Sequences = Annotated[
    SequenceFormat | CogLMFormat | DirectFormat | IterativeFormat, Field(discriminator="kind")
]
AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Role(Config):
    """One model of a family: its directory and the sequences it was trained on.

    guidance_free: how the model was taught to need no guidance, if it was.
    """

    directory: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sequences: Sequences
    guidance_free: Literal["distillation", "contrastive"] | None = None


class Fingerprints(Config):
    """Which tokenizers the family's models were trained with."""

    image_tokenizer: str
    text_tokenizer: str


class FamilyConfig(Config):
    """The contents of ``family.json``.

    styles: name to {language: phrase}; the phrase goes into the caption template of its language.
    templates: language to a caption with a style ("{caption}" and "{style}").
    style_defaults: a style's own sampling settings, where it has any, over ``defaults``.
    direct, iterative: sampling of the steps that enlarge (CogView2), over the release's: 100 clusters with
    temperature 0.89 inside them, and a top-k for each turn. style_direct: a style's own of the former.
    editing: sampling of masked parts, over ``defaults`` and a style's.
    clusters: the file with the clusters of the image codes. newline: the text piece for a line break.
    adapters: name to the directory of a LoRA adapter of the base role, applied when it is asked for.
    also: other names that the family is found by, where no family has them as its own.
    """

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    vocabulary: Vocabulary
    roles: dict[str, Role] = Field(min_length=1)
    image_tokenizer: str = "image_tokenizer"
    text_tokenizer: str = "text.model"
    styles: dict[str, dict[str, str]] = Field(default_factory=dict)
    templates: dict[str, str] = Field(
        default_factory=lambda: {"en": "{caption}, {style} style", "zh": "{caption}，{style}风格"}
    )
    defaults: SamplingParams = SamplingParams(top_p=0.0)
    style_defaults: dict[str, PartialParams] = Field(default_factory=dict)
    direct: PartialParams = SamplingParams()
    iterative: PartialParams = SamplingParams()
    style_direct: dict[str, PartialParams] = Field(default_factory=dict)
    editing: PartialParams = SamplingParams()
    clusters: AdapterName | None = None
    newline: str | None = None
    adapters: dict[str, AdapterName] = Field(default_factory=dict)
    also: tuple[AdapterName, ...] = ()
    fingerprints: Fingerprints

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Self:
        """Codes and text tokens are those of the tokenizers; control tokens may be a role's own."""
        shared = ("image_codes", "text_pieces", "languages")
        for name, role in self.roles.items():
            own = role.sequences.vocabulary
            if any(getattr(own, field) != getattr(self.vocabulary, field) for field in shared):
                raise ValueError(f"roles.{name}.sequences.vocabulary is not the family's vocabulary")
        for field in ("style_defaults", "style_direct"):
            for name in getattr(self, field):
                if name not in self.styles:
                    raise ValueError(f"{field}.{name}: there is no such style")
        return self

    @property
    def abilities(self) -> tuple[str, ...]:
        """What the server and the command line list: generate, edit, upscale, caption, score."""
        edits = self.coglm is not None
        found = [
            *(["generate"] if BASE in self.roles else []),
            *(["edit"] if edits else []),
            *(["upscale"] if UPSCALING in self.roles else []),
            *(["caption", "score"] if edits or CAPTION in self.roles else []),
        ]
        return tuple(found)

    @property
    def coglm(self) -> str | None:
        """The role that is a CogLM, which inpaints, captions and scores (CogView2); None without one."""
        able = (name for name in (BASE, COGLM) if name in self.roles)
        return next((name for name in able if self.roles[name].sequences.kind == "coglm"), None)

    @property
    def two_stage(self) -> bool:
        """Whether ``generate`` upscales what it generates, by models of the family (CogView2)."""
        return bool(self.stages) and self.coglm == BASE

    @property
    def stages(self) -> tuple[str, ...]:
        """The roles of super-resolution in two stages (CogView2), as far as there are any."""
        return tuple(name for name in (DIRECT, ITERATIVE) if DIRECT in self.roles and name in self.roles)

    @property
    def capabilities(self) -> frozenset[str]:
        """The tasks of a pipeline: ``abilities``, and what follows from them."""
        more = {"edit": "vary", "score": "rerank"}
        found = {*self.abilities, *(more[name] for name in self.abilities if name in more)}
        return frozenset(found | ({"upscale"} if DIRECT in self.roles else set()))

    def sampling(
        self,
        task: str,
        call: SamplingParams | None = None,
        style: str | None = None,
        default: SamplingParams | None = None,
    ) -> SamplingParams:
        """Complete parameters of a task: those of the call, of the style, of the task, of the family,
        default. What needs no guidance has none, unless the call or the style says otherwise.

        task: of :attr:`capabilities`, or ``direct`` or ``iterative``, the two stages of super-resolution.
        """
        styles = {DIRECT: self.style_direct, ITERATIVE: {}}.get(task, self.style_defaults)
        of_task = self.editing if task == "edit" else OF_TASK.get(task)
        family = {DIRECT: self.direct, ITERATIVE: self.iterative}.get(task, self.defaults)
        suited = None if style is None else styles.get(self.style_name(style))
        does = {"generate": BASE, "edit": self.coglm, "vary": self.coglm}.get(task)
        taught = does is not None and does in self.roles and self.roles[does].guidance_free is not None
        free = SamplingParams(guidance_scale=1.0) if taught else None
        first, *others = [one for one in (call, suited, free, of_task, family, default) if one is not None]
        return first.over(*others)

    def style_name(self, name: str) -> str:
        """A style's name, found by its name or by its words; CogViewError lists what there is."""
        for known, phrases in self.styles.items():
            if name.strip().lower() in (known.lower(), *(phrase.lower() for phrase in phrases.values())):
                return known
        words = [word for known, phrases in self.styles.items() for word in (known, *phrases.values())]
        close = difflib.get_close_matches(name, words, n=1, cutoff=0.5)
        there = f"there are {', '.join(self.styles)}" if self.styles else "this model has no styles"
        said = f"no style {name!r}; {f'did you mean {close[0]!r}? ' if close else ''}{there}"
        raise CogViewError(said, field="style")

    def style(self, name: str | None) -> dict[str, str]:
        """A style's words by language; of none, none."""
        return {} if name is None else self.styles[self.style_name(name)]

    def unsupported(self, task: str, reason: str = "") -> UnsupportedTask:
        """The error for a task that this family does not have, with the installed ones that have it."""
        others = {name: place for name, place in installed().items() if name != self.name}
        able = [name for name, place in others.items() if _has(place, task)]
        return UnsupportedTask(f"the model {self.name} cannot {DOES[task]}{reason}", task, able)

    def require(self, task: str, role: str) -> None:
        """UnsupportedTask where the family lacks a task for want of a role."""
        if task not in self.capabilities:
            raise self.unsupported(task, f": it has {', '.join(self.roles)}, no {role}")


class ModelBundle:
    """A family directory, opened: its configuration, and its parts when they are asked for."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.config = read_json(FamilyConfig, self.directory / FILE)

    @classmethod
    def find(cls, name: str | Path, *abilities: str) -> ModelBundle:
        """The family of a name (in the package, or in the user's models) or of a directory.

        UnsupportedTask where it lacks one of ``abilities``, with the models that have it.
        """
        bundle = cls(find(name))
        for ability in abilities:
            if ability not in bundle.config.abilities:
                raise bundle.config.unsupported(ability)
        return bundle

    @cached_property
    def hash(self) -> str:
        """SHA-256 over weights and configurations (:func:`cogview.checkpoints.provenance.model_hash`)."""
        return model_hash(self.directory)

    def role(self, name: str) -> Role:
        """A role's entry; CogViewError lists what the family has."""
        if name not in self.config.roles:
            there = ", ".join(self.config.roles)
            raise CogViewError(
                f"the model {self.config.name} has no {name!r} role; it has {there}; ask for one of these "
                f"or take a model with {name!r} (`cogview models` lists them)"
            )
        return self.config.roles[name]

    def adapter(self, name: str | Path) -> Path:
        """The directory of an adapter: the family's own by its name, else a run or the adapter in it."""
        inside = self.config.adapters.get(str(name))
        places = [self.directory / inside] if inside else [Path(name), Path(name) / "model"]
        for place in places:
            if (place / "lora.json").is_file():
                return place
        there = ", ".join(self.config.adapters) or "none of its own"
        raise CogViewError(
            f"no adapter {str(name)!r}: give the directory of a run that trained one with `lora:`, or one of "
            f"{self.config.name}'s ({there})"
        )

    def text_tokenizer(self) -> TextTokenizer:
        """The text tokenizer, its fingerprint checked."""
        from cogview.tokenizers.text import TextTokenizer

        path = self.directory / self.config.text_tokenizer
        tokenizer = TextTokenizer.from_file(path, self.config.newline)
        self._same(path, tokenizer.fingerprint, self.config.fingerprints.text_tokenizer)
        return tokenizer

    @cached_property
    def prompt_help(self) -> PromptHelp | None:
        """What near a word it knows, where the family has a table of words."""
        path = self.directory / WORDS
        return PromptHelp(path) if path.is_file() else None

    def unfamiliar(self, prompts: Iterable[str]) -> list[str]:
        """What to say about words of prompts that the model hardly knows, one line each."""
        prompts, found = list(prompts), list[str]()
        if self.prompt_help:
            unknown = {word: None for text in prompts for word in self.prompt_help.unknown(text)}
            found += [f"{self.config.name}: {word}" for word in islice(unknown, NAMED_WORDS)]
        tokenizer = self.text_tokenizer()
        words = list(dict.fromkeys(word for text in prompts for word in tokenizer.unfamiliar(text)))
        if words:
            shown = ", ".join(words[:NAMED_WORDS]) + (", …" if len(words) > NAMED_WORDS else "")
            languages = " and ".join(LANGUAGES.get(x, x) for x in self.config.templates)
            found.append(f"{self.config.name} reads {languages}; it hardly knows: {shown}")
        return found

    def image_tokenizer(self) -> AnyImageTokenizer:
        """The image tokenizer, its fingerprint checked."""
        from cogview.tokenizers.loading import read_image_tokenizer

        path = self.directory / self.config.image_tokenizer
        tokenizer = read_image_tokenizer(path)
        self._same(path, tokenizer.fingerprint, self.config.fingerprints.image_tokenizer)
        return tokenizer

    def transformer(
        self, role: str, device: torch.device | str = "cpu", layers: torch.dtype | None = None
    ) -> Transformer:
        """A role's transformer in float32, its layers' matrices as ``layers`` if given, on ``device``.

        CogViewError where it is too small for the role's sequences.
        """
        from cogview.transformer.model import Transformer

        self.check(role)
        path = self.directory / self.role(role).directory
        return Transformer.from_directory(path, device=device, layers=layers)

    def check(self, role: str) -> TransformerConfig:
        """A role's configuration; CogViewError where its files do not fit it, or it not the role's sequences.

        Weights are not read.
        """
        from cogview.transformer.model import Transformer

        entry = self.role(role)
        path = self.directory / entry.directory
        config = Transformer.inspect(path)
        wrong = entry.sequences.mismatch(config)
        if wrong is not None:
            raise CogViewError(f"{path} {wrong}")
        return config

    def _same(self, path: Path, found: str, wanted: str) -> None:
        if found != wanted:
            raise CogViewError(
                f"{path} is not the tokenizer this family was trained with "
                f"({found[:16]}, not {wanted[:16]}); restore the original file"
            )


def _has(directory: Path, task: str) -> bool:
    try:
        return task in ModelBundle(directory).config.capabilities
    except CogViewError:  # a damaged model of the user's; `cogview doctor` tells
        return False


def places() -> list[Path]:
    """Where families are looked up by name: the package, then the user's own."""
    return [PACKAGED, cache_dir() / "models"]


def installed() -> dict[str, Path]:
    """Every family found by name, the package's first."""
    found: dict[str, Path] = {}
    for place in places():
        for path in sorted(place.glob(f"*/{FILE}")):
            found.setdefault(path.parent.name, path.parent)
    return found


def locate(name: str | Path) -> Path | None:
    """The directory of a family given by path or by name, None where there is none.

    A directory with ``family.json`` comes first, then the package's families, then the user's own, then those
    that have it as another name: the one order in which every command looks.
    """
    if (Path(name) / FILE).is_file():
        return Path(name)
    found = installed()
    return found.get(str(name)) or next((one for one in found.values() if str(name) in _also(one)), None)


def _also(directory: Path) -> tuple[str, ...]:
    """A family's other names; none where its configuration cannot be read."""
    try:
        return ModelBundle(directory).config.also
    except CogViewError:  # a damaged model of the user's, which `cogview doctor` reports
        return ()


def find(name: str | Path) -> Path:
    """As :func:`locate`, then a repository of a hub; CogViewError where there is none names the nearest."""
    found = locate(name)
    if found is not None:
        return found
    if Path(name).is_dir():
        raise CogViewError(f"{name} is a directory without {FILE}; give a model family's directory")
    from cogview.checkpoints.fetching import fetch, is_repository

    if is_repository(name):
        return fetch(str(name))
    known = installed()
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known) or 'none installed'}"
    raise CogViewError(f"no model {str(name)!r}; {hint} (`cogview models` lists them)")


ModelName = Annotated[str, Check(find)]
MaybeModelName = Annotated[str | None, Check(find)]
