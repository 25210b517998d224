"""Configuration files: frozen, validated models read from JSON or YAML, with overrides from the command line.

Every configuration derives from :class:`Config`. An unknown key, a wrong type or an impossible combination
raises a :class:`~cogview.errors.CogViewError` that names the file and the field before anything is loaded.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import pydantic
import yaml
from pydantic_core import ErrorDetails

from cogview import files
from cogview.errors import CogViewError
from cogview.files import MAX_INTEGER

MAX_BYTES = 4 << 20  # of a JSON file; a larger file is no configuration
MAX_YAML_BYTES = 512 << 10  # PyYAML takes ten seconds for a megabyte
MAX_NUMBER = 64  # characters of a YAML number


class Config(pydantic.BaseModel):
    """Base of every configuration: immutable, without unknown keys; defaults are validated too."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", validate_default=True, ser_json_inf_nan="constants"
    )


C = TypeVar("C", bound=pydantic.BaseModel)


class OptionsOf:
    """Annotation of a mapping field: the command line shows the fields of ``model`` as its options."""

    def __init__(self, model: type[Any], *names: str) -> None:
        self.model, self.names = model, names


class Fields:
    """Annotation of a nested configuration: which fields the command line shows (default: all), and the text
    it shows as their default."""

    def __init__(self, *names: str, shown: str | None = None) -> None:
        self.names, self.shown = names, shown


def option(
    default: Any,
    help: str,
    *flags: str,
    shown: str | None = None,
    metavar: str | None = None,
    repeated: bool = False,
    argument: bool = False,
    **bounds: Any,
) -> Any:
    """A field that the command line shows as an option (:mod:`cogview.cli.options`).

    Args:
        default: ``...`` for a required field.
        flags: names of the option, if they differ from the field's.
        shown: text shown as the default; an option that is not given is then left out of the values.
        repeated: a tuple is passed by repeating the option, not as comma-separated values.
        argument: a positional argument instead of a named option.
        bounds: as in ``pydantic.Field``: ge, gt, le, lt, min_length, ...
    """
    extra: dict[str, Any] = {
        "flags": flags,
        "shown": shown,
        "metavar": metavar,
        "repeated": repeated,
        "argument": argument,
    }
    return pydantic.Field(default, description=help, json_schema_extra=extra, **bounds)


class Check:
    """Annotation with a function that checks an option's value, or each of several, before a command runs."""

    def __init__(self, check: Callable[[Any], Any]) -> None:
        self.check = check


def existing(path: Path) -> Path:
    """Return the path; raises CogViewError if it does not exist."""
    if not path.exists():
        raise CogViewError(f"{path}: cannot be read (no such file or folder)")
    return path


Existing = Annotated[Path, Check(existing)]
MaybeExisting = Annotated[Path | None, Check(existing)]


def parse_pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Parse ``NAME=VALUE`` strings; raises CogViewError for another format or a repeated name."""
    values: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        name = name.strip()
        if not (name and value):
            raise CogViewError(f"{option} {text}: write it as NAME=VALUE")
        if name in values:
            raise CogViewError(f"{option} {name}: the name is there twice")
        values[name] = value
    return values


class _Loader(yaml.SafeLoader):
    """YAML loader with the booleans and numbers of YAML 1.2 (``no`` is a string, ``3e-4`` a number).

    Rejects duplicate keys, aliases (which can expand a short text without limit), tags (which name types) and
    integers over 64 bits.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, rule) for tag, rule in rules if not tag.endswith((":bool", ":float", ":timestamp"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, f"*{event.anchor}: write it out, aliases are not read", mark
            )
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.composer.ComposerError(
                None, None, "tags (!) are not read; put texts into quotes", mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Hashable] = set()
        for node_of_key, _ in node.value:
            key = self.construct_object(node_of_key, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a list or a mapping", node_of_key.start_mark
                )
            if key in keys:
                problem = f"the key {key!r:.100} appears twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node_of_key.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number of at most ``MAX_NUMBER`` characters; integers have at most 64 bits."""
        problem = None
        if len(node.value) > MAX_NUMBER:
            problem = f"a number of {len(node.value):,} characters"
        elif node.tag.endswith(":float"):
            return self.construct_yaml_float(node)
        elif abs(number := self.construct_yaml_int(node)) > MAX_INTEGER:
            problem = f"{number}: over 64 bits"
        else:
            return number
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes every string which YAML 1.1 or 1.2 would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never write aliases."""
        return True


_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_BOOL = re.compile("^(?:true|True|TRUE|false|False|FALSE)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, "tTfF")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def cache_dir() -> Path:
    """The folder of user-installed models: ``COGVIEW_HOME``, or ``cogview`` in the user's cache folder."""
    home, caches = os.environ.get("COGVIEW_HOME"), os.environ.get("XDG_CACHE_HOME")
    return Path(home) if home else Path(caches or Path.home() / ".cache") / "cogview"


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML ``text``; raises a CogViewError that names ``where`` and the line if it is not valid."""
    if len(text) > MAX_YAML_BYTES:
        raise CogViewError(f"{where}: {len(text):,} characters are too many for a configuration file")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise CogViewError(f"{where}:{line} {error.problem or 'not valid YAML'}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CogViewError(f"{where}: not valid YAML ({str(error).splitlines()[0]})") from error


def _step(container: Any, key: str, path: str) -> tuple[Any, Any]:
    """The container and the key or index of one part of ``a.0.b``."""
    if isinstance(container, dict):
        return container, key
    if isinstance(container, list) and key.isdecimal() and int(key) < len(container):
        return container, int(key)
    kind = f"a list of {len(container)}" if isinstance(container, list) else "a plain value"
    raise CogViewError(f"--set {path}: {key!r} cannot be looked up in {kind}")


def apply_override(data: dict[str, Any], override: str) -> None:
    """Apply one override ``a.b=c`` to ``data`` in place; the value is YAML, ``a.0.b`` indexes a list."""
    path, equals, text = override.partition("=")
    if not equals or not all(path.strip().split(".")):
        raise CogViewError(f"--set {override}: write it as key.path=value")
    container: Any = data
    *parents, last = path.strip().split(".")
    for part in parents:
        container, key = _step(container, part, path)
        if isinstance(container, dict) and container.get(key) is None:
            container[key] = {}
        container = container[key]
    container, key = _step(container, last, path)
    container[key] = parse_yaml(text, f"--set {path}")


def load_yaml(path: Path | str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Load the mapping in a YAML file and apply ``overrides`` (each ``a.b=c``) in order."""
    data = parse_yaml(files.read_text(path, MAX_YAML_BYTES), str(path))
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise CogViewError(f"{path}: expected keys and values at the top, found {type(data).__name__}")
    for override in overrides:
        apply_override(data, override)
    return data


def load_json(path: Path | str) -> Any:
    """Load a JSON file (:func:`cogview.files.parse_json`)."""
    return files.load_json(path, MAX_BYTES)


def _known_keys(model: Any) -> Iterator[str]:
    """All field names of a model and of its nested models."""
    if isinstance(model, type) and issubclass(model, pydantic.BaseModel):
        for name, field in model.model_fields.items():
            yield name
            yield from _known_keys(field.annotation)
    for inner in get_args(model):
        yield from _known_keys(inner)


SENTENCES = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be keys and values",
    "model_type": "must be keys and values",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must have {min_length} or more entries",
}


def _sentence(error: ErrorDetails) -> str:
    """The error as a sentence about the file rather than about Python types."""
    known = SENTENCES.get(error["type"])
    if known is not None:
        return known.format(**error.get("ctx", {}))
    return error["msg"].removeprefix("Value error, ").replace("\n", " ")


def _explain(error: ErrorDetails, model: type[pydantic.BaseModel], names: Mapping[str, str]) -> str:
    """One validation error as ``field: what is wrong``."""
    field = ".".join(f"{part!s:.100}" for part in error["loc"])
    field = names.get(field.partition(".")[0], field)
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(f"{error['loc'][-1]!s:.100}", set(_known_keys(model)), n=1)
        return f"{field}: no such key" + (f"; did you mean {close[0]!r}?" if close else "")
    if error["type"] == "missing":
        return f"{field}: missing"
    message = _sentence(error)
    received = (
        ""
        if error["type"] in ("value_error", "assertion_error")
        else f" (got {reprlib.repr(error['input']):.80})"
    )
    return f"{field}: {message}{received}" if field else message


def explained(
    error: pydantic.ValidationError,
    model: type[pydantic.BaseModel] = pydantic.BaseModel,
    names: Mapping[str, str] | None = None,
) -> str:
    """The first validation error as ``field: what is wrong``, and the number of further ones."""
    first, *others = error.errors(include_url=False)
    return _explain(first, model, names or {}) + (f" (and {len(others)} more)" if others else "")


def validate(model: type[C], data: Any, where: str, names: Mapping[str, str] | None = None) -> C:
    """Validate ``data`` as a ``model``; raises a CogViewError with ``where`` and the first wrong field.

    names: the names of fields in the message, such as a command's option names.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        location = error.errors(include_url=False)[0]["loc"]
        field = str(location[-1]) if location else None
        raise CogViewError(f"{where}: {explained(error, model, names)}", field=field) from error


def read_yaml(model: type[C], path: Path | str, overrides: Iterable[str] = ()) -> C:
    """Read a YAML file with overrides as a validated ``model``."""
    return validate(model, load_yaml(path, overrides), str(path))


def read_json(model: type[C], path: Path | str) -> C:
    """Read a JSON file as a validated ``model``."""
    return validate(model, load_json(path), str(path))


def dump_yaml(config: pydantic.BaseModel) -> str:
    """A configuration as YAML, from which :func:`read_yaml` restores an equal one."""
    data = config.model_dump(mode="json")
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
