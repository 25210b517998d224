"""Options of the command line, made from the fields of configurations.

A verb is a function whose parameters are *groups* of options: configurations
(:class:`~cogview.config.Config`) whose fields have a help text (:func:`cogview.config.option`).
:func:`grouped` gives typer one option for each field, and the verb the validated groups. Name, type, default,
bounds and help of a setting are written once, beside what it configures. Nothing here imports PyTorch.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from cogview.config import Config, OptionsOf, option, validate
from cogview.errors import CogViewError
from cogview.files import read_text
from cogview.types import Decoding, Precision, SamplingParams

if TYPE_CHECKING:
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.pipelines.model import Pipeline
    from cogview.transformer.config import ThreeRegionConfig

Ability = Literal["generate", "edit", "upscale", "caption", "score"]
MAX_PROMPTS = 64 << 20  # bytes of a file of prompts
NEAREST = "nearest-training"  # of evaluation/experiments/nearest.py: images of the training set, no model
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
WORDS = 5  # unfamiliar ones that are named


def existing(path: Path) -> Path:
    """The path; CogViewError where there is nothing."""
    if not path.exists():
        raise CogViewError(f"{path}: cannot be read (no such file or folder)")
    return path


def model_name(name: str) -> str:
    """The name or directory of a model; CogViewError where there is none."""
    from cogview.checkpoints.bundle import find

    find(name)
    return name


def generator_name(name: str) -> str:
    """As :func:`model_name`, where ``nearest-training`` counts too."""
    return name if name == NEAREST else model_name(name)


def check_device(name: str) -> str:
    """The name; CogViewError where it is none of a device."""
    if not DEVICE.fullmatch(name):
        raise CogViewError(f"--device {name}: give auto, cpu, cuda, cuda:N or mps")
    return name


def check_model(name: str, *abilities: Ability) -> ModelBundle:
    """The family of a name or directory, its configuration read; UnsupportedTask where it cannot do all of
    ``abilities``, with the models that can."""
    from cogview.checkpoints.bundle import ModelBundle

    bundle = ModelBundle.find(name)
    for ability in abilities:
        if ability not in bundle.config.abilities:
            raise bundle.config.unsupported(ability)
    return bundle


def check_wishes(bundle: ModelBundle, seed: int | None, style: str | None = None) -> None:
    """CogViewError for a seed out of range, or a style that the family does not have."""
    from cogview.types import check_seed

    if seed is not None:
        check_seed(seed)
    if style is not None:
        bundle.config.style(style)


def check_prompts(prompts: Iterable[str]) -> None:
    """CogViewError for a prompt without a word in it."""
    if not all(prompt.strip() for prompt in prompts):
        raise CogViewError("the prompt is empty; say what to draw")


def check_pictures(paths: Iterable[Path]) -> None:
    """CogViewError for a file that is not there or does not begin as a picture does; pixels are not read."""
    from cogview.data.images import BadImage, check_header

    for path in paths:
        try:
            check_header(path)
        except BadImage as error:
            raise CogViewError(f"{path}: {error}") from None


def check_times(bundle: ModelBundle, times: int) -> None:
    """CogViewError where the family's super-resolution model does not enlarge ``times`` as much."""
    form = bundle.role("super_resolution").sequences
    small = getattr(form, "context_grid", None)
    scale = form.grid[0] // small[0] if small else 2
    if times not in (scale, scale**2):
        raise CogViewError(f"times is {times}; this model enlarges {scale} or {scale**2} times")


def check_boxes(image: Path, boxes: Sequence[str]) -> None:
    """CogViewError for a box that is none, or does not lie in the picture."""
    from PIL import Image

    from cogview.generation.editing import mask_of_boxes, read_box

    if not boxes:
        return
    with Image.open(image) as file:
        turned = file.getexif().get(0x0112, 1) >= 5  # stored lying on its side
        size = file.size[::-1] if turned else file.size
    mask_of_boxes([read_box(box, size) for box in boxes], size)


def read_prompts(file: Path | None, what: str = "prompt") -> list[str]:
    """The lines of a UTF-8 file that are not empty."""
    if file is None:
        return []
    lines = read_text(file, MAX_PROMPTS, "utf-8-sig").splitlines()
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise CogViewError(f"{file}: there is no {what} in it; write one on each line")
    return found


def read_regions(text: str | None) -> ThreeRegionConfig | None:
    """``WINDOW,TIMES,PIVOTS`` as the sizes of three-region attention."""
    from cogview.config import validate
    from cogview.transformer.config import ThreeRegionConfig

    if text is None:
        return None
    names, values = ("window", "times", "pivots"), text.split(",")
    if len(values) != len(names) or not all(value.strip().isdigit() for value in values):
        raise CogViewError(
            f"--sparse {text}: write three whole numbers, WINDOW,TIMES,PIVOTS, such as 64,4,256"
        )
    numbers = {name: int(value) for name, value in zip(names, values, strict=True)}
    return validate(ThreeRegionConfig, numbers, "--sparse")


def tell_unfamiliar(family: ModelBundle, texts: Sequence[str]) -> None:
    """Say on stderr which words of the prompts the model hardly knows, and what near them it does know."""
    if family.prompt_help:
        unknown = {word: None for text in texts for word in family.prompt_help.unknown(text)}
        for word in islice(unknown, WORDS):
            typer.echo(f"{family.config.name}: {word}", err=True)
    tokenizer = family.text_tokenizer()
    words = dict.fromkeys(word for text in texts for word in tokenizer.unfamiliar(text))
    if words:
        shown = ", ".join([*words][:WORDS]) + (", …" if len(words) > WORDS else "")
        languages = " and ".join(
            {"en": "English", "zh": "Chinese"}.get(x, x) for x in family.config.templates
        )
        typer.echo(f"{family.config.name} reads {languages}; it hardly knows: {shown}", err=True)


# ------------------------------------------------------------------------------------------ shared fields


class Check:
    """In ``Annotated``: what is asked of a value, or of each of several, before the verb runs."""

    def __init__(self, check: Callable[[Any], Any]) -> None:
        self.check = check


Existing = Annotated[Path, Check(existing)]
MaybeExisting = Annotated[Path | None, Check(existing)]
ModelName = Annotated[str, Check(model_name)]
MaybeModelName = Annotated[str | None, Check(model_name)]

MODEL = partial(option, help="A model's name (see cogview models) or directory.")
SEED = option(None, "Picture i of a seed is always the same one.", shown="a new one each time")
STYLE = option(None, "A style of the model (see cogview models).")
DETERMINISTIC = option(False, "Exactly the same whatever else is generated; slower.")
IMAGES = option((), "Pictures of any format and shape.", argument=True, metavar="IMAGE...")
SET = option(
    (), "Change a field of the recipe (optimizer.lr=1e-3).", "--set", metavar="KEY=VALUE", repeated=True
)
JSON = option(False, "Print the result as JSON.", "--json")
THREADS = option(
    None,
    "Threads to compute with (see cogview doctor).",
    shown="what the container and other programs leave",
    ge=1,
    le=1024,
)
MAX_BATCH = option(
    None,
    "Pictures at a time; auto: what fits, and print the plan.",
    "--max-batch",
    "--batch-size",
    metavar="N|auto",
    shown="what fits",
)


class Place(Config):
    """Where and how to compute."""

    precision: Precision = option(
        "fp32",
        "fp32; bf16, fp16: half the memory, for GPUs (bf16 for CPUs that know it, too); int8: for CPUs. "
        "All but fp32 are faster and slightly different.",
    )
    threads: int | None = THREADS
    device: Annotated[str, Check(check_device)] = option(
        "auto", "auto (a GPU if there is one), cpu, cuda, cuda:N or mps."
    )

    def open(self, bundle: ModelBundle, **options: Any) -> Pipeline:
        """The pipeline of a family, on the device and with the threads that are asked for."""
        from cogview.pipelines.model import Pipeline

        device = self.torch_device()
        use_threads(self.threads, bundle.directory)
        return Pipeline.from_pretrained(bundle.directory, device=device, precision=self.precision, **options)

    def torch_device(self) -> str | None:
        """The device for PyTorch, None for its own choice; CogViewError where there is none of that kind."""
        import torch

        if self.device == "auto":
            return None
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError):
            raise CogViewError(f"--device {self.device} is not available here; use auto or cpu") from None
        return self.device


class Decoded(Place):
    """Where and how to compute what is decoded token by token."""

    decoding: Decoding = option(
        "auto", "Token by token, or several in one forward; auto takes the faster one. The same tokens."
    )

    def open(self, bundle: ModelBundle, **options: Any) -> Pipeline:
        """As of any place, decoding as is asked for."""
        return super().open(bundle, decoding=self.decoding, **options)


def use_threads(threads: int | None, *models: Path) -> None:
    """Make PyTorch compute with ``threads``, or with as many as fit the machine and the models."""
    import torch

    from cogview.threads import choose

    if threads is None:
        sizes = [file.stat().st_size for model in models for file in model.glob("*/*.safetensors")]
        threads = choose(sum(sizes)).threads
    torch.set_num_threads(threads)


class Folder(Config):
    """Where pictures go, and what is printed."""

    out: Path = option(Path("out"), "The folder for the pictures.", "--out", "-o")
    as_json: bool = JSON


class Address(Config):
    """Where a server listens."""

    host: str = option("127.0.0.1", "The address to listen at; the default is this machine alone.")
    port: int = option(8000, "The port; 0 takes a free one.", ge=0, le=65535)


# ------------------------------------------------------------------------------------------------- groups


class Fields:
    """In ``Annotated``: the fields of a group that a verb shows (none: all), and what is shown as default."""

    def __init__(self, *names: str, shown: str | None = None) -> None:
        self.names, self.shown = names, shown


PLAIN = (str, int, float, bool, Path)
Sampling = Annotated[SamplingParams, Fields(shown="the model's")]
NONE_GIVEN = SamplingParams()
Verb = Callable[..., None]
Build = Callable[[dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Option:
    """One parameter for typer."""

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty


def grouped(**defaults: Any) -> Callable[[Verb], Verb]:
    """Decorates a verb for typer: each of its groups is replaced by options.

    Groups that have an option in common share it. ``defaults`` change those of options. A wrong value is a
    CogViewError that names the option, before the verb runs.
    """
    return partial(_grouped, defaults=defaults)


def _grouped(verb: Verb, defaults: dict[str, Any]) -> Verb:
    hints, where = get_type_hints(verb, include_extras=True), verb.__name__.removesuffix("_command")
    options: dict[str, Option] = {}
    groups: dict[str, Build] = {}
    for name in inspect.signature(verb).parameters:
        own, groups[name] = _of_group(hints[name], where.replace("_", "-"))
        options |= {option.name: option for option in own if option.name not in options}
    for name, default in defaults.items():
        options[name] = dataclasses.replace(options[name], default=default)

    @functools.wraps(verb)
    def command(**values: Any) -> None:
        verb(**{name: build(values) for name, build in groups.items()})

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(one.name, kind, default=one.default, annotation=one.annotation)
        for one in options.values()
    ]
    command.__dict__["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _of_group(kind: Any, where: str, shown: Fields | None = None) -> tuple[list[Option], Build]:
    """The options of a configuration, perhaps annotated, and what makes one of their values."""
    if get_origin(kind) is Annotated:
        shown = next((mark for mark in kind.__metadata__ if isinstance(mark, Fields)), shown)
        kind = get_args(kind)[0]
    shown = shown or Fields()
    options: list[Option] = []
    builds: dict[str, Build] = {}
    names: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        inner = next((mark for mark in field.metadata if isinstance(mark, OptionsOf)), None)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            marks = [mark for mark in field.metadata if isinstance(mark, Fields)]
            own, builds[name] = _of_group(field.annotation, where, *marks)
            options += own
        elif inner is not None and not shown.names:
            own, _ = _of_group(inner.model, where, Fields(*inner.names, shown="the model's"))
            builds[name] = partial(_mapping, tuple(option.name for option in own))
            options += own
        elif name in shown.names or (field.description and not shown.names):
            option, names[name] = _of_field(name, field, shown.shown, kind is not SamplingParams)
            builds[option.name] = partial(_value, option.name, field)
            options.append(option)

    def build(values: dict[str, Any]) -> Any:
        found = {name: make(values) for name, make in builds.items()}
        given = {name: value for name, value in found.items() if value is not None}
        if kind is SamplingParams:
            return SamplingParams.given(**given)
        return validate(kind, given, where, names)

    return options, build


def _value(option: str, field: FieldInfo, values: dict[str, Any]) -> Any:
    """What was given for a field; a text with commas as the tuple that it stands for."""
    value = values[option]
    if _is_tuple(field) and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    checks = [mark.check for mark in field.metadata if isinstance(mark, Check)]
    for one in value if isinstance(value, list) else [] if value is None else [value]:
        for check in checks:
            check(one)
    return value


def _mapping(names: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    """Those sampling parameters that are given, by name, once they are checked."""
    given = {name: values[name] for name in names if values[name] is not None}
    SamplingParams.given(**given)
    return given


def _of_field(name: str, field: FieldInfo, shown: str | None, ranges: bool) -> tuple[Option, str]:
    """The option of a field, and its name on the command line."""
    extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    shown, name = extra.get("shown") or shown, field.alias or name
    argument, flags = extra.get("argument"), extra.get("flags") or (f"--{name.replace('_', '-')}",)
    repeated = bool(extra.get("repeated") or argument)
    kind, metavar = _type_of(field, repeated)
    default = None if shown or field.default is None else field.default
    if isinstance(default, dict):
        default = None
    if isinstance(default, tuple):
        text = ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in default)
        shown, default = (text or shown, None) if repeated else (shown, text)
    if field.is_required():
        default = inspect.Parameter.empty
    elif default is None:
        kind |= None
    common: dict[str, Any] = {"help": field.description, "metavar": extra.get("metavar") or metavar}
    if argument:
        typed = typer.Argument(**common, show_default=shown or False)
        return Option(name, Annotated[kind, typed], default), str(common["metavar"])
    marks = [(mark, one) for one in field.metadata for mark in ("ge", "le") if hasattr(one, mark)]
    numeric = ranges and field.annotation in (int, float, int | None, float | None)
    bounds = {mark: getattr(one, mark) for mark, one in marks if numeric}
    typed = typer.Option(
        *flags, **common, min=bounds.get("ge"), max=bounds.get("le"), show_default=shown or True
    )
    return Option(name, Annotated[kind, typed], default), flags[0].partition("/")[0]


def _type_of(field: FieldInfo, repeated: bool) -> tuple[Any, str | None]:
    """The type of a field's option, and what stands for its value; choices are left to the configuration."""
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        [kind] = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) is Literal:
        return str, "|".join(get_args(kind))
    if repeated and not _is_tuple(field) and kind not in PLAIN:
        return list[str], None
    if _is_tuple(field):
        return (list[get_args(kind)[0]] if repeated else str), None  # type: ignore[misc]
    return kind, None


def _is_tuple(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple
