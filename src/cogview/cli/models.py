"""``cogview models``: list the model families of the package and of the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cogview.checkpoints.bundle import ModelBundle, installed
from cogview.config import cache_dir
from cogview.errors import CogViewError


def describe(name: str, directory: Path) -> dict[str, Any]:
    """The description of a family, or the error if it cannot be read."""
    entry: dict[str, Any] = {"name": name, "path": str(directory)}
    try:
        family = ModelBundle(directory)
        entry["hash"] = family.hash
    except CogViewError as error:
        return entry | {"error": str(error)}
    entry["also"] = list(family.config.also)
    entry["bytes"] = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    entry["roles"] = {role: _role(family, role) for role in family.config.roles}
    entry["styles"] = {style: dict(words) for style, words in family.config.styles.items()}
    entry["defaults"] = family.config.sampling("generate").model_dump()
    return entry


def _role(family: ModelBundle, name: str) -> dict[str, Any]:
    """The sequence format of a role: its kind, the grid of image codes, the longest text in tokens."""
    sequences = family.role(name).sequences
    return {"kind": sequences.kind, "grid": list(sequences.grid), "text_limit": sequences.text_limit}


def _lines(entry: dict[str, Any]) -> list[str]:
    if "error" in entry:
        return [f"{entry['name']}: {entry['error']}"]
    names = ", also ".join([entry["name"], *entry["also"]])
    lines = [f"{names}  {entry['bytes'] / 1e6:.1f} MB  {entry['hash'][:12]}  {entry['path']}"]
    for name, role in entry["roles"].items():
        kind, grid = role["kind"].replace("_", " "), " x ".join(map(str, role["grid"]))
        lines.append(f"  {name}: {kind}, {grid} codes, up to {role['text_limit']} tokens of text")
    if entry["styles"]:
        styles = (
            f"{name} ({', '.join(words.values())})" if words else name
            for name, words in entry["styles"].items()
        )
        lines.append(f"  styles: {'; '.join(styles)}")
    return lines


def models(as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """List the models: names, size, hash, roles, styles."""
    entries = [describe(name, directory) for name, directory in installed().items()]
    if as_json:
        typer.echo(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    for entry in entries:
        typer.echo("\n".join(_lines(entry)))
    if not entries:
        typer.echo(f"no model is installed; copy a family's directory to {cache_dir() / 'models'}", err=True)
