"""Downloads model families from a hub with Hugging Face's protocol (``hub.py`` uploads them).

A repository is a family's directory with a card (``README.md``) and ``SHA256SUMS``, the checksums of all
files. Only weights, configurations and texts are downloaded, and verified before they are read.
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
    """Whether a name is ``organisation/name`` (optionally ``@revision``) and not a local path."""
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
    """Download a repository into the hub client's cache and verify it; returns its directory.

    Args:
        name: ``organisation/name``, optionally with ``@revision``.
        revision: a branch, a tag or a commit; default: the main branch.
        local_files_only: use the cache only, without network access (also: ``HF_HUB_OFFLINE=1``).

    Raises:
        CogViewError: the extra ``hub`` is not installed, there is no such repository or revision, the hub
            cannot be reached and the cache is empty, or a file does not match its checksum.
    """
    hub = client()
    match = NAME.fullmatch(name)
    if match is None:
        raise CogViewError(f"{name!r} is not a repository's name; give organisation/name")
    try:
        directory = hub.snapshot_download(
            match["repository"],
            revision=revision or match["revision"],
            allow_patterns=FILES,
            token=token,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
            library_name=LIBRARY,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # client, HTTP and connection errors
        raise CogViewError(f"{name}: {reason(error)}") from error
    check(Path(directory))
    return Path(directory)


def check(directory: Path) -> None:
    """Raise CogViewError for a file that is missing or differs from ``SHA256SUMS``, if that exists."""
    if not (directory / SUMS).is_file():
        return
    for line in read_text(directory / SUMS, MAX_TEXT).splitlines():
        expected, _, name = line.partition("  ")
        if not name or ".." in Path(name).parts or Path(name).is_absolute():
            raise CogViewError(f"{directory / SUMS}: {line!r:.80} is not a line of checksums")
        if checksum(directory / name) != expected:
            raise CogViewError(f"{directory / name} differs from its checksum in {SUMS}; download it again")


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def client() -> Any:
    """The module ``huggingface_hub``; raises CogViewError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise CogViewError(
            "hub repositories need huggingface-hub; install it with: pip install 'cogview[hub]'"
        ) from None
    return huggingface_hub


def reason(error: Exception) -> str:
    """An error of the client as one line."""
    kind = type(error).__name__
    if "RevisionNotFound" in kind:
        return "there is no such revision"
    if "RepositoryNotFound" in kind or "GatedRepo" in kind:
        return "there is no such repository, or this token may not read it"
    if "LocalEntryNotFound" in kind or "OfflineMode" in kind:
        return "it is not in the cache, and the hub cannot be reached"
    return " ".join(str(error).split())[:300] or kind
