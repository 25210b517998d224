"""Diagnosis of an installation: package versions, hardware, models, and the problems found.

``cogview doctor`` prints the report; :func:`examine` returns it.
"""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from pathlib import Path
from typing import Any

import cogview
from cogview.checkpoints.bundle import ModelBundle
from cogview.checkpoints.provenance import model_hash
from cogview.config import cache_dir, load_json
from cogview.errors import CogViewError
from cogview.threads import choose, cores

NEEDED = ("torch", "numpy", "pillow", "safetensors", "sentencepiece", "pydantic", "typer", "rich", "pyyaml")
OPTIONAL = ("matplotlib", "pyarrow", "scipy", "fastapi", "uvicorn", "deepspeed", "huggingface-hub")


def versions() -> dict[str, str | None]:
    """Versions of this package, Python and the libraries; None for a library that is not installed."""
    result: dict[str, str | None] = {"cogview": cogview.__version__, "python": platform.python_version()}
    for name in (*NEEDED, *OPTIONAL):
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            result[name] = None
    return result


def device() -> dict[str, Any]:
    """The CPU, and the accelerators PyTorch finds with their memory in bytes."""
    import torch

    from cogview.transformer.processor import bf16_gain, has_bf16_instructions

    choice = choose()
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cores": len(cores()),
        "threads": choice.threads,
        "threads_reason": choice.reason,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": has_bf16_instructions(),
        "bf16_gain": round(bf16_gain(), 2),
        "gpus": [{"name": gpu.name, "memory": gpu.total_memory} for gpu in gpus],
        "used": "cuda" if gpus else "cpu",
    }


def memory() -> dict[str, int | None]:
    """Total and currently available main memory in bytes (None if the system does not report it)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {"total": None, "available": None}
    sizes = {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":") for line in lines)}
    return {"total": sizes.get("MemTotal"), "available": sizes.get("MemAvailable")}


def models(roots: list[Path]) -> list[dict[str, Any]]:
    """The model families under ``roots``: name, path, size in bytes and hash, or the error found in them."""
    entries = []
    for family in sorted(path for root in roots for path in root.glob("*/family.json")):
        entry: dict[str, Any] = {"path": str(family.parent)}
        try:
            entry["name"] = load_json(family)["name"]
            entry["bytes"] = sum(path.stat().st_size for path in family.parent.rglob("*") if path.is_file())
            entry["hash"] = model_hash(family.parent)
            check(family.parent)
        except (CogViewError, KeyError, TypeError, OSError) as error:
            entry |= {"name": entry.get("name", family.parent.name), "error": f"damaged: {error}"}
        entries.append(entry)
    return entries


def check(directory: Path) -> None:
    """Raise CogViewError if a family's tokenizers differ from its fingerprints, or weights do not fit."""
    family = ModelBundle(directory)
    family.text_tokenizer(), family.image_tokenizer()
    for role in family.config.roles:
        family.check(role)


def cache() -> dict[str, Any]:
    """The folder of user-installed models, and whether it is writable."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return {"path": str(folder), "writable": True}
    except OSError:
        return {"path": str(folder), "writable": False}


def problems(report: dict[str, Any]) -> list[str]:
    """The problems in a report, one line each."""
    lines = [
        f"{name} is not installed: pip install {name}" for name in NEEDED if not report["versions"][name]
    ]
    lines += [f"model {model['name']}: {model['error']}" for model in report["models"] if "error" in model]
    if not report["models"]:
        lines.append("no model is installed")
    if not report["cache"]["writable"]:
        lines.append(f"{report['cache']['path']} is not writable: set COGVIEW_HOME to a folder that is")
    return lines


def examine() -> dict[str, Any]:
    """The complete report, as ``--json`` prints it."""
    package = Path(cogview.__file__).parent
    report: dict[str, Any] = {
        "versions": versions(),
        "device": device(),
        "memory": memory(),
        "models": models([package / "models", cache_dir() / "models"]),
        "cache": cache(),
    }
    return report | {"problems": problems(report)}
