"""Model names of other services. Clients have OpenAI's names built in, so these are answered by a model of
ours; ``cogview serve --alias NAME=MODEL`` adds others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from cogview.errors import CogViewError

# dall-e-2, dall-e-3, gpt-image-1-mini, gpt-image-2.5-flare-2026-09-08, chatgpt-image-latest, ...
_OPENAI = re.compile(r"(dall-e|gpt-image|chatgpt-image)-[a-z0-9.-]{1,40}")


def is_openai_name(name: str) -> bool:
    """Whether a name is one of OpenAI's image models, perhaps with a provider before it."""
    return _OPENAI.fullmatch(name.rpartition("/")[2]) is not None


def parse_aliases(given: Sequence[str], models: Collection[str]) -> dict[str, str]:
    """``NAME=MODEL`` for each; CogViewError for another shape, and for a model that is not served."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, model = (part.strip() for part in text.partition("="))
        if not (name and equals and model):
            raise CogViewError(f"--alias {text}: give NAME=MODEL, as in dall-e-3=pictogram", field="alias")
        found[name] = model
    return check_aliases(found, models)


def check_aliases(aliases: Mapping[str, str], models: Collection[str]) -> dict[str, str]:
    """CogViewError for an alias of a model that is not served, or that is itself the name of one."""
    for name, model in aliases.items():
        if model not in models:
            raise CogViewError(f"alias {name}: no model {model!r} is served", field="alias")
        if name in models:
            raise CogViewError(f"alias {name}: a model that is served has this name", field="alias")
    return dict(aliases)
