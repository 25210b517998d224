"""Writes the page that generates in the browser (``cogview page``): a static folder for any web host."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from cogview.checkpoints.bundle import ModelBundle
from cogview.checkpoints.prompt_help import FILE as WORDS
from cogview.checkpoints.provenance import Label, software, xmp
from cogview.errors import CogViewError
from cogview.exporters.onnx_family import export_family
from cogview.files import read_bytes, replace_directory, spare_name
from cogview.importers.family import check_new
from cogview.onnx.manifest import Manifest, Weights
from cogview.web.sockets import THEME

STATIC = Path(__file__).parent / "static"
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = {  # SHA-256 of the files of the package's dist folder
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm": (
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"
    ),
}
WITHOUT_GPU = tuple(RUNTIME)[:3]  # what a browser loads that has no WebGPU
MOST = 64 << 20  # bytes of a file of the runtime
INDEX = "files.json"


def write_page(
    family: ModelBundle,
    out: Path,
    weights: Weights = "int8",
    runtime: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> int:
    """Write the page into a new folder, whole or not at all; the bytes that a browser without a GPU loads to
    generate.

    Args:
        runtime: where the package onnxruntime-web was installed (default: it is fetched with npm).

    Raises:
        CogViewError: as :func:`cogview.exporters.onnx_family.export_family`; no such runtime, or another
        version of it.
    """
    if "base" not in family.config.roles:
        raise family.config.unsupported("generate")
    check_new(out)
    files = runtime_files(runtime)
    fresh = spare_name(out.resolve())
    try:
        fresh.mkdir(parents=True)
        manifest = export_family(family, fresh / "model", weights, progress)
        for path in STATIC.iterdir():
            if path.name != "package.json":
                shutil.copyfile(path, fresh / path.name)
        shutil.copyfile(THEME, fresh / "theme.css")
        if family.prompt_help is not None:
            shutil.copyfile(family.prompt_help.checked().path, fresh / WORDS)
        (fresh / "runtime").mkdir()
        for name, content in files.items():
            (fresh / "runtime" / name).write_bytes(content)
        index = index_of(fresh, manifest)
        (fresh / INDEX).write_text(json.dumps(index, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        for old in replace_directory(fresh, out.resolve()):
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return int(str(index["bytes"]))


def index_of(folder: Path, manifest: Manifest) -> dict[str, object]:
    """What the page has to know of its own files: those that are kept for use without a connection from the
    first visit on, the bytes that a browser loads to generate, and what labels say."""
    base, image = manifest.transformers["base"], manifest.image
    model = ["manifest.json", manifest.text, base.graph, base.weights, base.heads["image"].graph]
    model += [image.decoder, image.decoder.removesuffix(".onnx") + ".bin"]
    keep = [path.name for path in sorted(folder.iterdir()) if path.is_file() and path.name != "sw.js"]
    keep += [f"model/{name}" for name in model]
    sizes = {name: (folder / name).stat().st_size for name in keep}
    sizes |= {name: (folder / "runtime" / name).stat().st_size for name in WITHOUT_GPU}
    digest = hashlib.sha256()
    for name in keep:
        digest.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    digest.update("".join(RUNTIME.values()).encode())
    told = software()
    return {
        "version": f"cogview-{digest.hexdigest()[:16]}",
        "software": told,
        "runtime": f"{PACKAGE} {VERSION}",
        "weights": manifest.weights,
        "words": (folder / WORDS).is_file(),
        "labels": {"producer": Label().producer or told, "xmp": xmp("{aigc}", told)},
        "keep": ["./", *keep, INDEX],
        "bytes": sum(sizes.values()),
        "model": sum(size for name, size in sizes.items() if name.startswith("model/")),
    }


def runtime_files(place: Path | None) -> dict[str, bytes]:
    """The runtime's files by name; CogViewError where they are not those of the one version."""
    found = _fetched() if place is None else _installed(place)
    for name, content in found.items():
        if hashlib.sha256(content).hexdigest() != RUNTIME[name]:
            raise CogViewError(f"{name} is not that of {PACKAGE} {VERSION}: npm install {PACKAGE}@{VERSION}")
    return found


def _installed(place: Path) -> dict[str, bytes]:
    """From a folder in which npm was run, or from the package itself."""
    for folder in (place / "node_modules" / PACKAGE / "dist", place / "dist", place):
        if (folder / next(iter(RUNTIME))).is_file():
            return {name: read_bytes(folder / name, MOST) for name in RUNTIME}
    raise CogViewError(f"{place}: no {PACKAGE} in it; there: npm install {PACKAGE}@{VERSION}")


def _fetched() -> dict[str, bytes]:
    """From the package's archive, by npm."""
    npm, package = shutil.which("npm"), f"{PACKAGE}@{VERSION}"
    if npm is None:
        raise CogViewError(f"npm is not installed, so {package} cannot be fetched; give --runtime")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", package, "--silent"], cwd=folder, capture_output=True, text=True, check=False
        )
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            lines = done.stderr.strip().splitlines() or ["no archive"]
            raise CogViewError(f"npm cannot fetch {package} ({lines[-1]:.200}); give --runtime")
        with tarfile.open(fileobj=io.BytesIO(archives[0].read_bytes())) as archive:
            found = {name: archive.extractfile(f"package/dist/{name}") for name in RUNTIME}
            return {name: file.read(MOST) for name, file in found.items() if file is not None}
