"""Model families as repositories of a hub that speaks Hugging Face's protocol: written, and pushed.

A repository is a family's directory with a card (``README.md``, its metadata in YAML) and ``SHA256SUMS``,
which lists what every file has to be (``fetching.py`` fetches and checks).
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
    """Write a family as a repository: its files, tokenizers of neighbours among them, card and checksums.

    metadata: of the card, over what is known (:func:`card`).
    """
    config, parts = bundle.config, dict[str, Path]()
    for role in config.roles.values():
        parts[role.directory] = bundle.directory / role.directory
    for name in (*config.adapters.values(), *([config.clusters] if config.clusters else [])):
        parts[name] = bundle.directory / name
    own = {"image_tokenizer": "image_tokenizer", "text_tokenizer": "text.model"}
    for field, name in own.items():
        parts[name] = bundle.directory / getattr(config, field)
    made = write_family(config.model_copy(update=own), directory, parts)
    if (bundle.directory / "card.md").is_file():
        shutil.copyfile(bundle.directory / "card.md", made.directory / "card.md")
    (made.directory / CARD).write_text(card(made, metadata or {}), encoding="utf-8")
    names = sorted(path.relative_to(made.directory).as_posix() for path in made.directory.rglob("*"))
    files = [name for name in names if (made.directory / name).is_file() and name != SUMS]
    lines = [f"{checksum(made.directory / name)}  {name}\n" for name in files]
    (made.directory / SUMS).write_text("".join(lines), encoding="utf-8")
    return made


def card(bundle: ModelBundle, metadata: Mapping[str, Any]) -> str:
    """The repository's card: metadata that the hub reads and checks, the family's own card, how to use it."""
    config, name = bundle.config, bundle.config.name
    can_draw = BASE in config.roles
    known: dict[str, Any] = {
        "license": "other",
        "library_name": LIBRARY,
        "pipeline_tag": "text-to-image" if can_draw else "image-to-text",
        "language": ["zh", "en"],
        "tags": [LIBRARY, "autoregressive", *sorted(config.abilities)],
    }
    text = (
        (bundle.directory / "card.md").read_text("utf-8") if (bundle.directory / "card.md").is_file() else ""
    )
    head = yaml.safe_dump({**known, **metadata}, allow_unicode=True, sort_keys=False)
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
    """Push a family as a repository, which is made where there is none; the address of the commit.

    Raises:
        CogViewError: the extra is missing, nobody answers, or the hub refuses.
    """
    import tempfile

    hub = client()
    if NAME.fullmatch(repository) is None or "@" in repository:
        raise CogViewError(f"{repository!r} is no name of a repository; give organisation/name")
    with tempfile.TemporaryDirectory(prefix="cogview-") as folder:
        made = save(bundle, Path(folder) / bundle.config.name, metadata)
        page = made.directory / CARD
        page.write_text(page.read_text("utf-8").replace("ORGANISATION/NAME", repository), encoding="utf-8")
        _write_sum(made.directory, CARD)
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token, library_name=LIBRARY)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            if branch is not None:
                api.create_branch(repository, branch=branch, exist_ok=True)
            told = message or f"Upload {bundle.config.name} ({bundle.hash[:12]})"
            done = api.upload_folder(
                repo_id=repository, folder_path=made.directory, revision=branch, commit_message=told
            )
        except Exception as error:  # of the client, of HTTP, of the connection
            raise CogViewError(f"{repository}: {reason(error)}") from error
    return str(done.commit_url)


def _write_sum(directory: Path, name: str) -> None:
    """Renew the checksum of one file."""
    lines = (directory / SUMS).read_text("utf-8").splitlines(keepends=True)
    others = [line for line in lines if not line.endswith(f"  {name}\n")]
    new = f"{checksum(directory / name)}  {name}\n"
    (directory / SUMS).write_text("".join(sorted([*others, new], key=lambda x: x[66:])), encoding="utf-8")
