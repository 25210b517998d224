"""Deletes what cogview-onnx never loads of its libraries: 170 MB become less than 130 on Linux.

    pip install ./packaging/onnx
    python packaging/onnx/slim.py

ONNX Runtime's wheel carries its library twice, once for programs in C; NumPy's carries its tests and headers.
Run it with the interpreter that has the packages, or name the folder of a `pip install --target`. For
containers and small devices: what is deleted comes back with the next installation of the package.
"""

from __future__ import annotations

import argparse
import shutil
import sysconfig
from pathlib import Path

SPARE = (  # of site-packages
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "numpy/**/tests",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/f2py",
    "numpy/random/lib",
)


def size(folder: Path) -> int:
    """Bytes of all files below a folder, links left out."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def slim(site: Path) -> int:
    """Delete what is spare; the bytes that this frees."""
    if not list(site.glob("onnxruntime/capi/onnxruntime_pybind11_state*")):
        raise SystemExit(f"{site} has no onnxruntime of Python's; name the folder with --target")
    freed = 0
    for pattern in SPARE:
        for path in sorted(site.glob(pattern)):
            if path.is_dir():
                freed += size(path)
                shutil.rmtree(path)
            elif path.exists():
                freed += path.stat().st_size
                path.unlink()
    return freed


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=Path, default=Path(sysconfig.get_path("purelib")))
    given = parser.parse_args()
    freed = slim(given.target)
    print(f"{given.target}: {freed / 1e6:.0f} MB deleted, {size(given.target) / 1e6:.0f} MB left")


if __name__ == "__main__":
    main()
