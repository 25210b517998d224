"""Writes the page that generates images in the browser (``cogview page``): a folder for any web server."""

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

from cogview.checkpoints.bundle import BASE, CAPTION, COGLM, ModelBundle
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
WITHOUT_GPU = tuple(RUNTIME)[:3]  # files that a browser without WebGPU loads
MOST = 64 << 20  # bytes, largest file of the runtime
INDEX = "files.json"
ROLES = (BASE, CAPTION, COGLM)  # what the page uses: it generates, captions and scores


def write_page(
    family: ModelBundle,
    out: Path,
    weights: Weights = "int8",
    runtime: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> int:
    """Write the page into a new folder, completely or not at all.

    Args:
        runtime: the folder in which the package onnxruntime-web was installed (default: download it with
            npm).

    Returns:
        The number of bytes that a browser without a GPU loads to generate an image.

    Raises:
        CogViewError: as :func:`cogview.exporters.onnx_family.export_family`; the runtime is missing, or it
            has another version.
    """
    if BASE not in family.config.roles:
        raise family.config.unsupported("generate")
    check_new(out)
    files = runtime_files(runtime)
    temporary = spare_name(out.resolve())
    try:
        temporary.mkdir(parents=True)
        manifest = export_family(family, temporary / "model", weights, progress, only=ROLES)
        for path in STATIC.iterdir():
            if path.name != "package.json":
                shutil.copyfile(path, temporary / path.name)
        shutil.copyfile(THEME, temporary / "theme.css")
        if family.prompt_help is not None:
            shutil.copyfile(family.prompt_help.checked().path, temporary / WORDS)
        (temporary / "runtime").mkdir()
        for name, content in files.items():
            (temporary / "runtime" / name).write_bytes(content)
        index = page_index(temporary, manifest)
        text = json.dumps(index, ensure_ascii=False, indent=1) + "\n"
        (temporary / INDEX).write_text(text, encoding="utf-8")
        for old in replace_directory(temporary, out.resolve()):
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return int(str(index["bytes"]))


def page_index(folder: Path, manifest: Manifest) -> dict[str, object]:
    """The index of the page's files: those that are cached for offline use at the first visit, the number of
    bytes that a browser loads to generate an image, and the contents of labels."""
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
    name = software()
    return {
        "version": f"cogview-{digest.hexdigest()[:16]}",
        "software": name,
        "runtime": f"{PACKAGE} {VERSION}",
        "weights": manifest.weights,
        "words": (folder / WORDS).is_file(),
        "labels": {"producer": Label().producer or name, "xmp": xmp("{aigc}", name)},
        "keep": ["./", *keep, INDEX],
        "bytes": sum(sizes.values()),
        "model": sum(size for name, size in sizes.items() if name.startswith("model/")),
    }


def runtime_files(root: Path | None) -> dict[str, bytes]:
    """The runtime's files by name; raises CogViewError if they are not those of the required version."""
    files = _download() if root is None else _read_installed(root)
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != RUNTIME[name]:
            raise CogViewError(f"{name} is not that of {PACKAGE} {VERSION}: npm install {PACKAGE}@{VERSION}")
    return files


def _read_installed(root: Path) -> dict[str, bytes]:
    """Read the files from a folder in which npm was run, or from the package itself."""
    for folder in (root / "node_modules" / PACKAGE / "dist", root / "dist", root):
        if (folder / next(iter(RUNTIME))).is_file():
            return {name: read_bytes(folder / name, MOST) for name in RUNTIME}
    raise CogViewError(f"{root}: it has no {PACKAGE}; run there: npm install {PACKAGE}@{VERSION}")


def _download() -> dict[str, bytes]:
    """Download the package's archive with npm."""
    npm, package = shutil.which("npm"), f"{PACKAGE}@{VERSION}"
    if npm is None:
        raise CogViewError(f"npm is not installed, so {package} cannot be downloaded; give --runtime")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", package, "--silent"], cwd=folder, capture_output=True, text=True, check=False
        )
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            lines = done.stderr.strip().splitlines() or ["no archive"]
            raise CogViewError(f"npm cannot download {package} ({lines[-1]:.200}); give --runtime")
        with tarfile.open(fileobj=io.BytesIO(archives[0].read_bytes())) as archive:
            files = {name: archive.extractfile(f"package/dist/{name}") for name in RUNTIME}
            return {name: file.read(MOST) for name, file in files.items() if file is not None}
