"""``cogview doctor``: check the installation, the machine and the models."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cogview.diagnosis import examine

GIB = 1 << 30


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"


def _lines(report: dict[str, Any]) -> list[str]:
    machine, ram = report["device"], report["memory"]
    present = [f"{name} {version}" for name, version in report["versions"].items() if version]
    absent = [name for name, version in report["versions"].items() if not version]
    gain = f", matrix products {machine['bf16_gain']:.1f} times as fast as in fp32"
    bf16 = f", bf16 instructions{gain}" if machine["bf16"] else ""
    lines = [
        f"versions  {', '.join(present)}",
        f"absent    {', '.join(absent) or 'nothing'}",
        f"machine   {machine['platform']}",
        f"processor {machine['cores']} cores, {machine['capability']}{bf16}",
        f"threads   {machine['threads']} ({machine['threads_reason']}); --threads changes it",
        *(f"gpu       {gpu['name']}, {_gib(gpu['memory'])}" for gpu in machine["gpus"]),
        f"memory    {_gib(ram['available'])} available of {_gib(ram['total'])}",
        f"device    {machine['used']}",
    ]
    for model in report["models"]:
        facts = model.get("error") or f"{model['bytes'] / 1e6:.1f} MB, {model['hash'][:12]}"
        lines.append(f"model     {model['name']}: {facts}, {model['path']}")
    lines.append(f"cache     {report['cache']['path']}")
    return lines + [f"PROBLEM   {line}" for line in report["problems"]]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, for machines.")] = False,
) -> None:
    """Check this installation: versions, device, memory, installed models with their hashes, cache.

    Exits with code 1 if it finds a problem.
    """
    report = examine()
    if as_json:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(_lines(report)))
    raise typer.Exit(1 if report["problems"] else 0)
