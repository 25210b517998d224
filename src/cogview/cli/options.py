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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from cogview.cli.output import batch_limit
from cogview.config import Check, Config, Fields, OptionsOf, option, validate
from cogview.data.images import check_picture
from cogview.pipelines.task_requests import Decoded, Place
from cogview.types import SamplingParams

if TYPE_CHECKING:
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.pipelines.model import Pipeline

MODEL = partial(option, help="A model's name (see cogview models) or directory.")
DETERMINISTIC = option(False, "Exactly the same images in any batch; slower.")
IMAGES = option((), "Images of any format and shape.", argument=True, metavar="IMAGE...")
SET = option(
    (), "Change a field of the recipe (optimizer.lr=1e-3).", "--set", metavar="KEY=VALUE", repeated=True
)
JSON = option(False, "Print the result as JSON.", "--json")

Pictures = Annotated[tuple[Path, ...], Check(check_picture)]


class Opening(Config):
    """A model, and how it computes."""

    model: str = MODEL("pictogram")
    place: Place = Place()
    max_batch: str | None = option(
        None,
        "Images at a time; auto: what fits, and print the plan.",
        "--max-batch",
        "--batch-size",
        metavar="N|auto",
        shown="what fits",
    )

    @property
    def batch_size(self) -> int | None:
        """The most images at a time; CogViewError for a wrong ``max_batch``."""
        return batch_limit(self.max_batch)


class Decoding(Opening):
    """A model that generates token by token, and how it computes."""

    deterministic: bool = DETERMINISTIC
    place: Decoded = Decoded()

    def open(self, family: ModelBundle, **options: Any) -> Pipeline:
        """The model of a family."""
        return self.place.open(family, deterministic=self.deterministic, **options)


class Folder(Config):
    """Where images go, and what is printed."""

    out: Path = option(Path("out"), "The folder for the images.", "--out", "-o")
    as_json: bool = JSON


class Address(Config):
    """Where a server listens."""

    host: str = option("127.0.0.1", "The address to listen at; the default is this machine alone.")
    port: int = option(8000, "The port; 0 takes a free one.", ge=0, le=65535)


# ------------------------------------------------------------------------------------------------- groups


PLAIN = (str, int, float, bool, Path)
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
