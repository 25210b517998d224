"""Deprecated names of version 0.1; each resolves to its new location, with a warning, in this version."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

PIPELINES, BUNDLE = "cogview.pipelines.", "cogview.checkpoints.bundle:"
WRITING = "cogview.checkpoints.family_writing:"
NAMES = {  # names of the package
    "Hierarchy": PIPELINES + "cogview2:CogView2",
    "load": "cogview:from_pretrained",
    "Picture": PIPELINES + "output:GeneratedImage",
    "Sampling": "cogview.types:SamplingParams",
    "Family": BUNDLE + "ModelBundle",
}
MODULES = {  # names of each module; "*" for all others
    "cogview.hierarchy": {"load": NAMES["load"], "Hierarchy": NAMES["Hierarchy"]},
    "cogview.pipeline": {"CogView": PIPELINES + "cogview:CogView", "*": PIPELINES + "output:"}
    | {"Picture": NAMES["Picture"]},
    "cogview.pipeline2": {"CogView2": PIPELINES + "cogview2:CogView2"},
    "cogview.family": {"Family": NAMES["Family"], "*": BUNDLE}
    | {name: f"{WRITING}{name}" for name in ("write_family", "new_family", "check_place")},
    "cogview.provenance": {"*": "cogview.checkpoints.provenance:"},
    "cogview.coglm": {"*": "cogview.sequences:"},
    "cogview.labels": {"*": "cogview.checkpoints.provenance:"},
    "cogview.pipelines.output": {"*": PIPELINES + "base:"},
    "cogview.untrusted": {"*": "cogview.files:"},
    "cogview.evaluation.metrics.distributions": {"*": "cogview.evaluation.metrics.fid:"},
}


def _resolve(old: str, location: str) -> Any:
    warnings.warn(f"{old} is now {location.replace(':', '.')}", DeprecationWarning, stacklevel=4)
    module, _, name = location.partition(":")
    return getattr(importlib.import_module(module), name)


def old_name(name: str) -> Any:
    """Resolve a deprecated name of the package; raises AttributeError for any other."""
    if name not in NAMES:
        raise AttributeError(f"module 'cogview' has no attribute {name!r}")
    return _resolve(f"cogview.{name}", NAMES[name])


class _Moved(ModuleType):
    """A module whose names have moved."""

    def __getattr__(self, name: str) -> Any:
        names = MODULES[self.__name__]
        if name.startswith("__") or not {name, "*"} & set(names):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _resolve(f"{self.__name__}.{name}", names.get(name) or names["*"] + name)


def renamed(module: str, **names: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module with renamed names; ``names`` maps old names to new ones."""

    def resolve(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return _resolve(f"{module}.{name}", f"{module}:{names[name]}")

    return resolve


for _name in MODULES:
    sys.modules.setdefault(_name, _Moved(_name))
