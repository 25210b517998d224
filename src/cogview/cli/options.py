"""Command-line options, built from the fields of configurations.

A verb is a function whose parameters are *groups* of options: configurations
(:class:`~cogview.config.Config`) whose fields have a help text (:func:`cogview.config.option`).
:func:`grouped` declares one typer option for each field, and passes the validated groups to the verb. Name,
type, default, bounds and help of an option are defined once, in its configuration. This module does not
import PyTorch.
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
from cogview.pipelines.task_requests import ComputeOptions, DecodeOptions
from cogview.types import SamplingParams

if TYPE_CHECKING:
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.pipelines.model import Pipeline

MODEL = partial(option, help="A model's name (see cogview models) or directory.")
DETERMINISTIC = option(False, "Generate bit-identical images in any batch; slower.")
IMAGES = option((), "Images of any format and shape.", argument=True, metavar="IMAGE...")
SET = option(
    (), "Change a field of the recipe (optimizer.lr=1e-3).", "--set", metavar="KEY=VALUE", repeated=True
)
JSON = option(False, "Print the result as JSON.", "--json")

ImagePaths = Annotated[tuple[Path, ...], Check(check_picture)]


class ModelOptions(Config):
    """Which model to use, and how it computes."""

    model: str = MODEL("pictogram")
    place: ComputeOptions = ComputeOptions()
    max_batch: str | None = option(
        None,
        "Images in a batch; auto: as many as fit, and print the plan.",
        "--max-batch",
        "--batch-size",
        metavar="N|auto",
        shown="as many as fit",
    )

    @property
    def batch_size(self) -> int | None:
        """Maximum batch size, or None for as many as fit; raises CogViewError if ``max_batch`` is invalid."""
        return batch_limit(self.max_batch)


class DecodingOptions(ModelOptions):
    """Which generative model to use, and how it computes."""

    deterministic: bool = DETERMINISTIC
    place: DecodeOptions = DecodeOptions()

    def open(self, family: ModelBundle, **options: Any) -> Pipeline:
        """Load the pipeline of a model family."""
        return self.place.open(family, deterministic=self.deterministic, **options)


class OutputOptions(Config):
    """Where images are written, and what is printed."""

    out: Path = option(Path("out"), "The folder for the images.", "--out", "-o")
    as_json: bool = JSON


class Address(Config):
    """Where a server listens."""

    host: str = option("127.0.0.1", "Address to listen on; by default only this machine can connect.")
    port: int = option(8000, "Port to listen on; 0: any free one.", ge=0, le=65535)


# ------------------------------------------------------------------------------------------------- groups


PLAIN = (str, int, float, bool, Path)
Verb = Callable[..., None]
Build = Callable[[dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Option:
    """A parameter of a typer command."""

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty


def grouped(**defaults: Any) -> Callable[[Verb], Verb]:
    """Decorator of verbs: replaces each group among the parameters by its options.

    Groups with an option of the same name share it. ``defaults`` replace the options' defaults. An invalid
    value raises a CogViewError that names the option, before the verb runs.
    """
    return partial(_grouped, defaults=defaults)


def _grouped(verb: Verb, defaults: dict[str, Any]) -> Verb:
    hints, verb_name = get_type_hints(verb, include_extras=True), verb.__name__.removesuffix("_command")
    options: dict[str, Option] = {}
    groups: dict[str, Build] = {}
    for name in inspect.signature(verb).parameters:
        group_options, groups[name] = _group_options(hints[name], verb_name.replace("_", "-"))
        options |= {option.name: option for option in group_options if option.name not in options}
    for name, default in defaults.items():
        options[name] = dataclasses.replace(options[name], default=default)

    @functools.wraps(verb)
    def command(**values: Any) -> None:
        verb(**{name: build(values) for name, build in groups.items()})

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(option.name, kind, default=option.default, annotation=option.annotation)
        for option in options.values()
    ]
    command.__dict__["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _group_options(kind: Any, where: str, shown: Fields | None = None) -> tuple[list[Option], Build]:
    """The options of a configuration, and a function that builds it from their values.

    kind: the configuration's class, possibly annotated; where: the verb, for error messages; shown: the
    fields to show, by default all that have a help text.
    """
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
            inner_options, builds[name] = _group_options(field.annotation, where, *marks)
            options += inner_options
        elif inner is not None and not shown.names:
            inner_options, _ = _group_options(inner.model, where, Fields(*inner.names, shown="the model's"))
            builds[name] = partial(_sampling_values, tuple(option.name for option in inner_options))
            options += inner_options
        elif name in shown.names or (field.description and not shown.names):
            option, names[name] = _field_option(name, field, shown.shown, kind is not SamplingParams)
            builds[option.name] = partial(_value, option.name, field)
            options.append(option)

    def build(values: dict[str, Any]) -> Any:
        fields = {name: build_field(values) for name, build_field in builds.items()}
        fields = {name: value for name, value in fields.items() if value is not None}
        if kind is SamplingParams:
            return SamplingParams.given(**fields)
        return validate(kind, fields, where, names)

    return options, build


def _value(option: str, field: FieldInfo, values: dict[str, Any]) -> Any:
    """The value of an option; comma-separated text of a tuple field is split into a list."""
    value = values[option]
    if _is_tuple(field) and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    checks = [mark.check for mark in field.metadata if isinstance(mark, Check)]
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        for check in checks:
            check(item)
    return value


def _sampling_values(names: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    """The sampling parameters that are set, by name, after validation."""
    params = {name: values[name] for name in names if values[name] is not None}
    SamplingParams.given(**params)
    return params


def _field_option(name: str, field: FieldInfo, shown: str | None, ranges: bool) -> tuple[Option, str]:
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
        text = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in default)
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
    """The type and metavar of a field's option; the configuration validates choices."""
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        [kind] = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) is Literal:
        return str, "|".join(get_args(kind))
    if repeated and not _is_tuple(field) and kind not in PLAIN:
        return list[str], None
    if _is_tuple(field):
        return (list[get_args(kind)[0]] if repeated else str), None  # type: ignore[misc]
    return kind, None


def _is_tuple(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple
