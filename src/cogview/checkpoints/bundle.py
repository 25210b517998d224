"""A model family: a directory of models that share their tokenizers.

::

    pictogram/
      family.json        describes the rest; it is validated before any weights are read
      text.model         SentencePiece
      image_tokenizer/   config.json, model.safetensors
      base/              config.json, model.safetensors: one directory per role
      card.md            data, licences, measurements, limits

``family.json`` holds the vocabulary, each role's sequence format, the named styles, the sampling defaults and
the fingerprints of both tokenizers, so that a file of another model raises an error instead of producing a
wrong image.
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
TASK_PHRASES = {
    "generate": "generate images",
    "edit": "edit images",
    "vary": "vary images",
    "upscale": "upscale images",
    "caption": "caption images",
    "score": "score images",
    "rerank": "score images",
}
TASK_DEFAULTS = {  # sampling defaults of a task, which call and style override
    "caption": SamplingParams(temperature=1.0, top_k=0, top_p=1.0, clusters=0),
    "upscale": SamplingParams(guidance_scale=1.0),
}
NAMED_WORDS = 5  # largest number of unfamiliar words in a message
LANGUAGES = {"en": "English", "zh": "Chinese"}
PACKAGED = Path(__file__).parent.parent / "models"


Sequences = Annotated[
    SequenceFormat | CogLMFormat | DirectFormat | IterativeFormat, Field(discriminator="kind")
]
AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Role(Config):
    """One model of a family: its directory and the sequence format it was trained on.

    guidance_free: the method by which the model was trained to work without guidance, if it was.
    """

    directory: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sequences: Sequences
    guidance_free: Literal["distillation", "contrastive"] | None = None


class Fingerprints(Config):
    """The fingerprints of the tokenizers that the family's models were trained with."""

    image_tokenizer: str
    text_tokenizer: str


class FamilyConfig(Config):
    """The contents of ``family.json``.

    styles: name to {language: phrase}; the phrase goes into the caption template of its language.
    templates: language to a caption with a style ("{caption}" and "{style}").
    style_defaults: sampling settings of a style, which override ``defaults``.
    direct, iterative: sampling settings of the super-resolution stages (CogView2), which override those of
    the release: 100 clusters with temperature 0.89 inside them, and a top-k for each turn. style_direct:
    settings of a style for the direct stage.
    editing: sampling settings of masked parts, which override ``defaults`` and those of a style.
    clusters: the file with the clusters of the image codes. newline: the text token for a line break.
    adapters: name to the directory of a LoRA adapter of the base role, applied on request.
    also: aliases, used if no family has that name.
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
        """All roles share image codes and text tokens; control tokens may differ between roles."""
        shared = ("image_codes", "text_pieces", "languages")
        for name, role in self.roles.items():
            vocabulary = role.sequences.vocabulary
            if any(getattr(vocabulary, field) != getattr(self.vocabulary, field) for field in shared):
                raise ValueError(f"roles.{name}.sequences.vocabulary is not the family's vocabulary")
        for field in ("style_defaults", "style_direct"):
            for name in getattr(self, field):
                if name not in self.styles:
                    raise ValueError(f"{field}.{name}: there is no such style")
        return self

    @property
    def abilities(self) -> tuple[str, ...]:
        """The tasks that the server and the command line list: generate, edit, upscale, caption, score."""
        edits = self.coglm is not None
        tasks = [
            *(["generate"] if BASE in self.roles else []),
            *(["edit"] if edits else []),
            *(["upscale"] if UPSCALING in self.roles else []),
            *(["caption", "score"] if edits or CAPTION in self.roles else []),
        ]
        return tuple(tasks)

    @property
    def coglm(self) -> str | None:
        """The role that is a CogLM, which inpaints, captions and scores (CogView2); None without one."""
        candidates = (name for name in (BASE, COGLM) if name in self.roles)
        return next((name for name in candidates if self.roles[name].sequences.kind == "coglm"), None)

    @property
    def two_stage(self) -> bool:
        """Whether ``generate`` upscales its images with models of the family (CogView2)."""
        return bool(self.stages) and self.coglm == BASE

    @property
    def stages(self) -> tuple[str, ...]:
        """The roles of two-stage super-resolution (CogView2); empty without it."""
        return tuple(name for name in (DIRECT, ITERATIVE) if DIRECT in self.roles and name in self.roles)

    @property
    def capabilities(self) -> frozenset[str]:
        """The tasks of a pipeline: ``abilities`` and the tasks they imply."""
        implied = {"edit": "vary", "score": "rerank"}
        tasks = {*self.abilities, *(implied[name] for name in self.abilities if name in implied)}
        return frozenset(tasks | ({"upscale"} if DIRECT in self.roles else set()))

    def sampling(
        self,
        task: str,
        call: SamplingParams | None = None,
        style: str | None = None,
        default: SamplingParams | None = None,
    ) -> SamplingParams:
        """Complete sampling parameters of a task.

        Precedence: call, style, task, family, ``default``. A model that was trained to work without guidance
        uses none, unless the call or the style sets it.

        task: one of :attr:`capabilities`, or ``direct`` or ``iterative``, the stages of super-resolution.
        """
        style_params = {DIRECT: self.style_direct, ITERATIVE: {}}.get(task, self.style_defaults)
        of_task = self.editing if task == "edit" else TASK_DEFAULTS.get(task)
        of_family = {DIRECT: self.direct, ITERATIVE: self.iterative}.get(task, self.defaults)
        of_style = None if style is None else style_params.get(self.style_name(style))
        role = {"generate": BASE, "edit": self.coglm, "vary": self.coglm}.get(task)
        entry = None if role is None else self.roles.get(role)
        guidance_free = entry is not None and entry.guidance_free is not None
        free = SamplingParams(guidance_scale=1.0) if guidance_free else None
        layers = (call, of_style, free, of_task, of_family, default)
        first, *others = [params for params in layers if params is not None]
        return first.over(*others)

    def style_name(self, name: str) -> str:
        """A style's name, given its name or its phrase; raises CogViewError that lists the styles."""
        for known, phrases in self.styles.items():
            if name.strip().lower() in (known.lower(), *(phrase.lower() for phrase in phrases.values())):
                return known
        words = [word for known, phrases in self.styles.items() for word in (known, *phrases.values())]
        close = difflib.get_close_matches(name, words, n=1, cutoff=0.5)
        known_styles = f"there are {', '.join(self.styles)}" if self.styles else "this model has no styles"
        message = f"no style {name!r}; {f'did you mean {close[0]!r}? ' if close else ''}{known_styles}"
        raise CogViewError(message, field="style")

    def style(self, name: str | None) -> dict[str, str]:
        """A style's phrases by language; empty without a style."""
        return {} if name is None else self.styles[self.style_name(name)]

    def unsupported(self, task: str, reason: str = "") -> UnsupportedTask:
        """The error for a task that this family lacks; it names the installed families that support it."""
        others = {name: path for name, path in installed().items() if name != self.name}
        supporting = [name for name, path in others.items() if _supports(path, task)]
        return UnsupportedTask(f"the model {self.name} cannot {TASK_PHRASES[task]}{reason}", task, supporting)

    def require(self, task: str, role: str) -> None:
        """Raise UnsupportedTask if the family lacks a task because it has no such role."""
        if task not in self.capabilities:
            raise self.unsupported(task, f": it has {', '.join(self.roles)}, no {role}")


class ModelBundle:
    """An opened family directory: its configuration, and its components, which are loaded on request."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.config = read_json(FamilyConfig, self.directory / FILE)

    @classmethod
    def find(cls, name: str | Path, *abilities: str) -> ModelBundle:
        """Open a family by name (from the package or the user's models) or by directory.

        Raises UnsupportedTask if it lacks one of ``abilities``.
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
        """A role's entry; raises CogViewError that lists the family's roles."""
        if name not in self.config.roles:
            roles = ", ".join(self.config.roles)
            raise CogViewError(
                f"the model {self.config.name} has no {name!r} role; it has {roles}; use one of these "
                f"or a model with {name!r} (`cogview models` lists them)"
            )
        return self.config.roles[name]

    def adapter(self, name: str | Path) -> Path:
        """The directory of an adapter: one of the family's by name, else that of a run or of an adapter."""
        inside = self.config.adapters.get(str(name))
        candidates = [self.directory / inside] if inside else [Path(name), Path(name) / "model"]
        for path in candidates:
            if (path / "lora.json").is_file():
                return path
        known = ", ".join(self.config.adapters) or "it has none"
        raise CogViewError(
            f"no adapter {str(name)!r}: give the directory of a run that trained one with `lora:`, or one of "
            f"{self.config.name}'s ({known})"
        )

    def text_tokenizer(self) -> TextTokenizer:
        """Load the text tokenizer and check its fingerprint."""
        from cogview.tokenizers.text import TextTokenizer

        path = self.directory / self.config.text_tokenizer
        tokenizer = TextTokenizer.from_file(path, self.config.newline)
        self._check_fingerprint(path, tokenizer.fingerprint, self.config.fingerprints.text_tokenizer)
        return tokenizer

    @cached_property
    def prompt_help(self) -> PromptHelp | None:
        """Suggestions for unknown words, if the family has a table of words."""
        path = self.directory / WORDS
        return PromptHelp(path) if path.is_file() else None

    def unfamiliar(self, prompts: Iterable[str]) -> list[str]:
        """Warnings about words of prompts that the model hardly knows, one line each."""
        prompts, warnings = list(prompts), list[str]()
        if self.prompt_help:
            unknown = {word: None for text in prompts for word in self.prompt_help.unknown(text)}
            warnings += [f"{self.config.name}: {word}" for word in islice(unknown, NAMED_WORDS)]
        tokenizer = self.text_tokenizer()
        words = list(dict.fromkeys(word for text in prompts for word in tokenizer.unfamiliar(text)))
        if words:
            shown = ", ".join(words[:NAMED_WORDS]) + (", …" if len(words) > NAMED_WORDS else "")
            languages = " and ".join(LANGUAGES.get(x, x) for x in self.config.templates)
            warnings.append(f"{self.config.name} reads {languages}; it hardly knows: {shown}")
        return warnings

    def image_tokenizer(self) -> AnyImageTokenizer:
        """Load the image tokenizer and check its fingerprint."""
        from cogview.tokenizers.loading import read_image_tokenizer

        path = self.directory / self.config.image_tokenizer
        tokenizer = read_image_tokenizer(path)
        self._check_fingerprint(path, tokenizer.fingerprint, self.config.fingerprints.image_tokenizer)
        return tokenizer

    def transformer(
        self, role: str, device: torch.device | str = "cpu", layers: torch.dtype | None = None
    ) -> Transformer:
        """Load a role's transformer in float32 on ``device``; layers: dtype of the layers' matrices.

        Raises CogViewError if it is too small for the role's sequence format.
        """
        from cogview.transformer.model import Transformer

        self.check(role)
        path = self.directory / self.role(role).directory
        return Transformer.from_directory(path, device=device, layers=layers)

    def check(self, role: str) -> TransformerConfig:
        """Check a role without reading its weights; returns its configuration.

        Raises CogViewError if its files do not match its configuration, or that does not match the role's
        sequence format.
        """
        from cogview.transformer.model import Transformer

        entry = self.role(role)
        path = self.directory / entry.directory
        config = Transformer.inspect(path)
        mismatch = entry.sequences.mismatch(config)
        if mismatch is not None:
            raise CogViewError(f"{path} {mismatch}")
        return config

    def _check_fingerprint(self, path: Path, actual: str, expected: str) -> None:
        if actual != expected:
            raise CogViewError(
                f"{path} is not the tokenizer this family was trained with "
                f"({actual[:16]}, not {expected[:16]}); restore the original file"
            )


def _supports(directory: Path, task: str) -> bool:
    try:
        return task in ModelBundle(directory).config.capabilities
    except CogViewError:  # a damaged model of the user's, which `cogview doctor` reports
        return False


def places() -> list[Path]:
    """The directories that are searched for families by name: the package's, then the user's."""
    return [PACKAGED, cache_dir() / "models"]


def installed() -> dict[str, Path]:
    """The directories of all installed families by name; the package's take precedence."""
    families: dict[str, Path] = {}
    for place in places():
        for path in sorted(place.glob(f"*/{FILE}")):
            families.setdefault(path.parent.name, path.parent)
    return families


def locate(name: str | Path) -> Path | None:
    """The directory of a family by path or name; None if there is none.

    Search order of all commands: a directory with ``family.json``, the package's families, the user's
    families, aliases.
    """
    if (Path(name) / FILE).is_file():
        return Path(name)
    families = installed()
    aliased = (path for path in families.values() if str(name) in _aliases(path))
    return families.get(str(name)) or next(aliased, None)


def _aliases(directory: Path) -> tuple[str, ...]:
    """A family's aliases; none if its configuration cannot be read."""
    try:
        return ModelBundle(directory).config.also
    except CogViewError:  # a damaged model of the user's, which `cogview doctor` reports
        return ()


def find(name: str | Path) -> Path:
    """As :func:`locate`, then a hub repository; raises CogViewError that suggests the closest name."""
    path = locate(name)
    if path is not None:
        return path
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
