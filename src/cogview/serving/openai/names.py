"""Model names of other services.

Many clients have OpenAI's model names built in, so requests for these are served by an available model;
``cogview serve --alias NAME=MODEL`` adds other names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from cogview.errors import CogViewError

# dall-e-2, dall-e-3, gpt-image-1-mini, gpt-image-2.5-flare-2026-09-08, chatgpt-image-latest, ...
_OPENAI = re.compile(r"(dall-e|gpt-image|chatgpt-image)-[a-z0-9.-]{1,40}")


def is_openai_name(name: str) -> bool:
    """Whether a name is one of OpenAI's image models, optionally prefixed by a provider and a slash."""
    return _OPENAI.fullmatch(name.rpartition("/")[2]) is not None


def parse_aliases(texts: Sequence[str], models: Collection[str]) -> dict[str, str]:
    """Aliases from ``NAME=MODEL`` texts; raises CogViewError for another format or an unknown model."""
    aliases: dict[str, str] = {}
    for text in texts:
        name, equals, model = (part.strip() for part in text.partition("="))
        if not (name and equals and model):
            raise CogViewError(f"--alias {text}: give NAME=MODEL, as in dall-e-3=pictogram", field="alias")
        aliases[name] = model
    return check_aliases(aliases, models)


def check_aliases(aliases: Mapping[str, str], models: Collection[str]) -> dict[str, str]:
    """The aliases; raises CogViewError if one stands for an unknown model, or is itself a model's name."""
    for name, model in aliases.items():
        if model not in models:
            raise CogViewError(f"alias {name}: no model {model!r} is served", field="alias")
        if name in models:
            raise CogViewError(f"alias {name}: a served model has this name", field="alias")
    return dict(aliases)
