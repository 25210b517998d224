"""Writes model families as repositories and uploads them to a hub with Hugging Face's protocol.

A repository is a family's directory with a card (``README.md``, with metadata in YAML) and ``SHA256SUMS``,
the checksums of all files (``fetching.py`` downloads and verifies it).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cogview.checkpoints.bundle import BASE, ModelBundle
from cogview.checkpoints.family_writing import write_family
from cogview.checkpoints.fetching import (
    CARD,
    LIBRARY,
    NAME,
    SUMS,
    check,
    checksum,
    client,
    fetch,
    is_repository,
    reason,
)
from cogview.errors import CogViewError

__all__ = ["card", "check", "fetch", "is_repository", "push", "save"]


def save(
    bundle: ModelBundle, directory: str | Path, metadata: Mapping[str, Any] | None = None
) -> ModelBundle:
    """Write a family as a repository: its files, including tokenizers that it shares with another family,
    card and checksums.

    metadata: entries of the card, which override the defaults (:func:`card`).
    """
    config, parts = bundle.config, dict[str, Path]()
    for role in config.roles.values():
        parts[role.directory] = bundle.directory / role.directory
    for name in (*config.adapters.values(), *([config.clusters] if config.clusters else [])):
        parts[name] = bundle.directory / name
    tokenizers = {"image_tokenizer": "image_tokenizer", "text_tokenizer": "text.model"}
    for field, name in tokenizers.items():
        parts[name] = bundle.directory / getattr(config, field)
    written = write_family(config.model_copy(update=tokenizers), directory, parts)
    if (bundle.directory / "card.md").is_file():
        shutil.copyfile(bundle.directory / "card.md", written.directory / "card.md")
    (written.directory / CARD).write_text(card(written, metadata or {}), encoding="utf-8")
    names = sorted(path.relative_to(written.directory).as_posix() for path in written.directory.rglob("*"))
    files = [name for name in names if (written.directory / name).is_file() and name != SUMS]
    lines = [f"{checksum(written.directory / name)}  {name}\n" for name in files]
    (written.directory / SUMS).write_text("".join(lines), encoding="utf-8")
    return written


def card(bundle: ModelBundle, metadata: Mapping[str, Any]) -> str:
    """The repository's card: metadata that the hub validates, the family's card, and how to use it."""
    config, name = bundle.config, bundle.config.name
    generates = BASE in config.roles
    defaults: dict[str, Any] = {
        "license": "other",
        "library_name": LIBRARY,
        "pipeline_tag": "text-to-image" if generates else "image-to-text",
        "language": ["zh", "en"],
        "tags": [LIBRARY, "autoregressive", *sorted(config.abilities)],
    }
    text = (
        (bundle.directory / "card.md").read_text("utf-8") if (bundle.directory / "card.md").is_file() else ""
    )
    head = yaml.safe_dump({**defaults, **metadata}, allow_unicode=True, sort_keys=False)
    use = (
        "```python\nimport cogview\n\n"
        'model = cogview.from_pretrained("ORGANISATION/NAME")\n'
        'model.generate("a red apple", seed=7)[0].save("apple.png")\n```\n'
    )
    return f"---\n{head}---\n\n{text.strip() or f'# {name}'}\n\n## Use\n\n{use}"


def push(
    bundle: ModelBundle,
    repository: str,
    *,
    private: bool | None = None,
    branch: str | None = None,
    message: str | None = None,
    token: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Upload a family as a repository, which is created if necessary; returns the commit's URL.

    Raises:
        CogViewError: the extra ``hub`` is not installed, the hub cannot be reached, or it rejects the upload.
    """
    import tempfile

    hub = client()
    if NAME.fullmatch(repository) is None or "@" in repository:
        raise CogViewError(f"{repository!r} is not a repository's name; give organisation/name")
    with tempfile.TemporaryDirectory(prefix="cogview-") as folder:
        saved = save(bundle, Path(folder) / bundle.config.name, metadata)
        readme = saved.directory / CARD
        text = readme.read_text("utf-8").replace("ORGANISATION/NAME", repository)
        readme.write_text(text, encoding="utf-8")
        _write_sum(saved.directory, CARD)
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token, library_name=LIBRARY)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            if branch is not None:
                api.create_branch(repository, branch=branch, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=saved.directory,
                revision=branch,
                commit_message=message or f"Upload {bundle.config.name} ({bundle.hash[:12]})",
            )
        except Exception as error:  # client, HTTP and connection errors
            raise CogViewError(f"{repository}: {reason(error)}") from error
    return str(commit.commit_url)


def _write_sum(directory: Path, name: str) -> None:
    """Update the checksum of one file."""
    lines = (directory / SUMS).read_text("utf-8").splitlines(keepends=True)
    others = [line for line in lines if not line.endswith(f"  {name}\n")]
    new = f"{checksum(directory / name)}  {name}\n"
    (directory / SUMS).write_text("".join(sorted([*others, new], key=lambda x: x[66:])), encoding="utf-8")
