"""Model families fetched from a hub that speaks Hugging Face's protocol (``hub.py`` writes and pushes them).

A repository is a family's directory with a card (``README.md``) and ``SHA256SUMS``, which lists what every
file has to be. Weights, configurations and texts alone are fetched, and checked before they are read.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from cogview.errors import CogViewError
from cogview.files import open_regular, read_text

NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
SUMS, CARD = "SHA256SUMS", "README.md"
FILES = ["*.json", "*.model", "*.safetensors", "card.md", CARD, SUMS]
MAX_TEXT = 4 << 20
LIBRARY = "cogview"


def is_repository(name: str | Path) -> bool:
    """Whether a name is ``organisation/name`` (perhaps ``@revision``) and not a path of this machine."""
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        return False
    return not Path(name.partition("/")[0]).is_dir()


def fetch(
    name: str,
    revision: str | None = None,
    *,
    token: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Path:
    """The directory of a repository, fetched into the hub's own cache and checked.

    Args:
        name: ``organisation/name``, or with ``@revision``.
        revision: a branch, a tag or a commit; default: the main branch.
        local_files_only: take what is in the cache and ask nobody (also: ``HF_HUB_OFFLINE=1``).

    Raises:
        CogViewError: the extra ``hub`` is missing; no such repository or revision; nobody answers and nothing
            is in the cache; a file does not have its checksum.
    """
    hub = client()
    found = NAME.fullmatch(name)
    if found is None:
        raise CogViewError(f"{name!r} is no name of a repository; give organisation/name")
    try:
        place = hub.snapshot_download(
            found["repository"],
            revision=revision or found["revision"],
            allow_patterns=FILES,
            token=token,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
            library_name=LIBRARY,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # of the client, of HTTP, of the connection
        raise CogViewError(f"{name}: {reason(error)}") from error
    check(Path(place))
    return Path(place)


def check(directory: Path) -> None:
    """CogViewError for a file that is missing or differs from ``SHA256SUMS``, where there is such a list."""
    if not (directory / SUMS).is_file():
        return
    for line in read_text(directory / SUMS, MAX_TEXT).splitlines():
        wanted, _, name = line.partition("  ")
        if not name or ".." in Path(name).parts or Path(name).is_absolute():
            raise CogViewError(f"{directory / SUMS}: {line!r:.80} is no line of checksums")
        if checksum(directory / name) != wanted:
            raise CogViewError(f"{directory / name} differs from its checksum in {SUMS}; fetch it again")


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def client() -> Any:
    """The library; CogViewError where it is missing."""
    try:
        import huggingface_hub
    except ImportError:
        raise CogViewError(
            "a repository's name needs huggingface-hub; install it with: pip install 'cogview[hub]'"
        ) from None
    return huggingface_hub


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    kind = type(error).__name__
    if "RevisionNotFound" in kind:
        return "there is no such revision"
    if "RepositoryNotFound" in kind or "GatedRepo" in kind:
        return "there is no such repository, or this token may not read it"
    if "LocalEntryNotFound" in kind or "OfflineMode" in kind:
        return "it is not in the cache, and no hub could be asked"
    return " ".join(str(error).split())[:300] or kind
