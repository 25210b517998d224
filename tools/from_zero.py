"""From nothing to an image through every interface, each step timed: a wheel in an environment of its own.

    python -m build --wheel && python tools/from_zero.py dist/cogview-*.whl --out zero.json
    mmdebstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm root/
    sudo python tools/from_zero.py dist/cogview-*.whl --root root/ --out zero.json

Without ``--root`` it is a new virtual environment with an empty home, of this interpreter; with it, a Debian
root that nothing was installed into (``chroot``; ``--bind`` puts folders into it that pip's settings name).
There the wheel is installed, ``cogview serve`` started, and one image asked for by the command line, Python,
OpenAI's client, A1111's API and an agent's protocol (MCP). The times are written with what weighs most.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

EXTRAS = "[serve,mcp]"
CLIENTS = ("openai",)
KEPT = ("PIP_", "SSL_", "REQUESTS_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "OMP_NUM_THREADS", "LANG")
PROMPT, SEED = "a blue monster with round eyes, red background", 7


# ------------------------------------------------------------------------------------------- outside


def clean(home: str) -> dict[str, str]:
    """The environment of somebody who has just arrived: how pip reaches its index, and nothing of ours."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    return {**kept, "HOME": home, "PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"}


@contextlib.contextmanager
def bound(root: Path, folders: Sequence[str]) -> Iterator[None]:
    """``/proc`` and folders of this machine inside the root, read-only, as long as it is used."""
    mounted: list[Path] = []
    try:
        for folder in ("/proc", "/dev", *folders):
            place = root / folder.strip("/")
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--rbind", "-o", "ro", folder, str(place)], check=True)
            subprocess.run(["mount", "--make-rslave", str(place)], check=True)
            mounted.append(place)
        yield
    finally:
        for place in reversed(mounted):
            subprocess.run(["umount", "-R", str(place)], check=True)


def outside(args: argparse.Namespace) -> dict[str, Any]:
    """Put the wheel and this file where the journey takes place, and go."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        place = Path(folder) if args.root is None else args.root / "zero"
        place.mkdir(exist_ok=True)
        if args.root is not None:
            stack.callback(shutil.rmtree, place)
            stack.enter_context(bound(args.root, args.bind))
            if not (args.root / "etc" / "resolv.conf").exists():
                shutil.copy("/etc/resolv.conf", args.root / "etc" / "resolv.conf")
        for file in (args.wheel, Path(__file__)):
            shutil.copy(file, place / file.name)
        inner = "/zero" if args.root is not None else str(place)
        python = "python3" if args.root is not None else sys.executable
        command = [python, f"{inner}/{Path(__file__).name}", f"{inner}/{args.wheel.name}", "--inside"]
        command = ["chroot", str(args.root), *command] if args.root is not None else command
        subprocess.run(command, cwd="/", env=clean(inner), check=True)
        found: dict[str, Any] = json.loads((place / "told.json").read_text("utf-8"))
    return {"where": "a Debian root" if args.root is not None else "a virtual environment", **found}


# ------------------------------------------------------------------------------------------- inside


def inside(wheel: Path) -> None:
    """The journey; ``told.json`` beside the wheel says how long each step took."""
    home, seconds = wheel.parent, dict[str, float]()
    venv = home / "venv"
    python, cogview = str(venv / "bin" / "python"), str(venv / "bin" / "cogview")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]

    def timed(name: str, command: Sequence[str]) -> None:
        begun = time.monotonic()
        subprocess.run(command, cwd=home, check=True)
        seconds[name] = round(time.monotonic() - begun, 1)

    timed("make an environment", [sys.executable, "-m", "venv", str(venv)])
    timed("install", [*pip, f"{wheel}{EXTRAS}"])
    timed("install the clients", [*pip, *CLIENTS])
    timed("generate: command line", [cogview, "generate", PROMPT, "--seed", str(SEED), "-o", "shell/"])
    begun = time.monotonic()
    with served(cogview, home) as address:
        seconds["serve: until ready"] = round(time.monotonic() - begun, 1)
        steps = [python, str(home / Path(__file__).name), str(wheel), "--clients", address]
        subprocess.run(steps, cwd=home, check=True)
    told = json.loads((home / "clients.json").read_text("utf-8"))
    files = [next((home / "shell").glob("*.png")).read_bytes(), *map(base64.b64decode, told.pop("files"))]
    seconds |= told["seconds"]
    found = {
        "python": sys.version.split()[0],
        "seconds": seconds,
        "all": round(sum(seconds.values()), 1),
        "interfaces": len(files),
        "the same file from": files.count(files[0]),
        "megabytes": told["megabytes"],
    }
    (home / "told.json").write_text(json.dumps(found, indent=1), "utf-8")


@contextlib.contextmanager
def served(cogview: str, home: Path) -> Iterator[str]:
    """A server that is ready; its address."""
    log = home / "serve.log"
    with log.open("wb") as said:
        process = subprocess.Popen([cogview, "serve", "--port", "0"], cwd=home, stdout=said, stderr=said)
    try:
        while "Ctrl-C stops" not in (text := log.read_text("utf-8")):
            if process.poll() is not None:
                sys.exit(text)
            time.sleep(0.2)
        yield next(line.split()[-1] for line in text.splitlines() if line.startswith("api")).removesuffix(
            "/v1"
        )
    finally:
        process.terminate()
        process.wait()


def by_python() -> str:
    import cogview

    [image] = cogview.from_pretrained("pictogram").generate(PROMPT, seed=SEED)
    return base64.b64encode(image.png()).decode()


def by_openai(address: str) -> str:
    import openai

    client = openai.OpenAI(base_url=f"{address}/v1", api_key="any")
    answer = client.images.generate(prompt=PROMPT, model="pictogram", extra_body={"seed": SEED})
    return str(answer.data[0].b64_json)  # type: ignore[index]


def by_a1111(address: str) -> str:
    body = json.dumps({"prompt": PROMPT, "seed": SEED, "width": 72, "height": 72}).encode()
    request = urllib.request.Request(
        f"{address}/sdapi/v1/txt2img", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["images"][0])


def by_agent() -> str:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    async def ask() -> str:
        server = StdioServerParameters(command=str(Path(sys.executable).with_name("cogview")), args=["mcp"])
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()
            answer = await session.call_tool("generate_image", {"prompt": PROMPT, "seed": SEED})
            return next(str(part.data) for part in answer.content if part.type == "image")

    return asyncio.run(ask())


def clients(wheel: Path, address: str) -> None:
    """One image by every client, in the environment that has them."""
    asked: dict[str, Callable[[], str]] = {
        "Python": by_python,
        "OpenAI's client": lambda: by_openai(address),
        "A1111's API": lambda: by_a1111(address),
        "agent (MCP), its server started": by_agent,
    }
    seconds, files = dict[str, float](), list[str]()
    for name, ask in asked.items():
        begun = time.monotonic()
        files.append(ask())
        seconds[f"generate: {name}"] = round(time.monotonic() - begun, 1)
    told = {"seconds": seconds, "files": files, "megabytes": weights()}
    (wheel.parent / "clients.json").write_text(json.dumps(told), "utf-8")


def weights(most: int = 8) -> dict[str, int]:
    """Megabytes of the heaviest packages, and of all."""
    found = dict[str, int]()
    for one in importlib.metadata.distributions():
        paths = [Path(str(file.locate())) for file in one.files or ()]
        found[one.metadata["Name"]] = sum(path.stat().st_size for path in paths if path.is_file())
    heaviest = sorted(found, key=lambda name: -found[name])[:most]
    return {"all": sum(found.values()) >> 20, **{name: found[name] >> 20 for name in heaviest}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--root", type=Path, help="a Debian root to do it in; needs to be root")
    parser.add_argument("--bind", nargs="*", default=[], help="folders that pip needs in there")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--clients", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.clients:
        clients(args.wheel, args.clients)
    elif args.inside:
        inside(args.wheel)
    else:
        text = json.dumps(outside(args), indent=2)
        print(text)
        if args.out is not None:
            args.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
