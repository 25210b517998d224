"""The page of ``cogview page`` in headless Chromium: download, time until ready, images, memory, codes.

    python benchmarks/in_a_browser.py --model pictogram --images 100 --runtime FOLDER
    python benchmarks/in_a_browser.py --rehearse --runtime FOLDER   # one image of each kind: whether it runs

FOLDER is where ``npm install onnxruntime-web`` was run; without it npm fetches the package. The page is
opened with an empty and with a warm cache, and its first image is asked for as a person does. Images of four
prompts are generated in one thread, with Jacobi windows and token by token; their codes are compared with
PyTorch's, with float32 weights. Memory is that of the tab's process.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from jacobi import PROMPTS, SEED, requests_of
from playwright.sync_api import Browser, sync_playwright

import cogview
from cogview import SamplingParams
from cogview.page.writing import INDEX, PACKAGE, VERSION, write_page

READY = "#generate:enabled"
GENERATE = """async ([prompts, seed, first, end, jacobi]) => {
    if (!window.model) {
        const { Model } = await import("/model.js"), ort = await import("/runtime/ort.wasm.min.mjs");
        ort.env.wasm.numThreads = 1;
        const load = async (name) => new Uint8Array(await (await fetch(`/model/${name}`)).arrayBuffer());
        window.model = await Model.open(ort, load, { executionProviders: ["wasm"], logSeverityLevel: 3 });
        await window.model.generate(prompts[0]);
    }
    const made = [];
    for (let i = first; i < end; i++) {
        const start = performance.now(), options = { seed, index: Math.floor(i / prompts.length), jacobi };
        const codes = await window.model.generate(prompts[i % prompts.length], options);
        await window.model.decode(codes);
        made.push([[...codes], performance.now() - start]);
    }
    return made;
}"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *words: Any) -> None:
        """Nothing."""


def opened(browser: Browser, address: str) -> dict[str, float]:
    """Seconds until the page is ready, with an empty cache and with a warm one, and to the first image."""
    page, found = browser.new_context().new_page(), {}
    for name in ("cold", "warm"):
        start = time.perf_counter()
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_selector(READY, timeout=600_000)
        found[f"{name}_seconds"] = time.perf_counter() - start
        page.wait_for_timeout(3000)  # the service worker has kept the files
    start = time.perf_counter()
    page.fill("#prompt", PROMPTS[0])
    page.click("#generate")
    page.wait_for_selector("#row a[download]", timeout=600_000)
    found["first_image_seconds"] = time.perf_counter() - start
    page.context.close()
    return found


def memory() -> float:
    """Megabytes of the largest tab of a Chromium that this process started."""
    largest = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes()
            status = (place / "status").read_text()
        except OSError:
            continue
        if b"--type=renderer" in words and _started_here(place):
            kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
            largest = max(largest, int(kilobytes))
    return largest / 1e3


def _started_here(place: Path) -> bool:
    """Whether a process descends from this one."""
    while place.name not in ("0", "1"):
        if place.name == str(os.getpid()):
            return True
        try:
            place = place.with_name((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="pictogram")
    parser.add_argument("--images", type=int, default=100, help="whose codes are compared")
    parser.add_argument("--timed", type=int, default=8, help="images that are timed in each way")
    parser.add_argument("--runtime", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="one image of each kind")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.rehearse:
        given.images = given.timed = 1
    torch.set_num_threads(1)
    model = cogview.from_pretrained(given.model)
    params = model.bundle.config.sampling("generate", SamplingParams())
    requests = requests_of(model, max(given.images, 1), params.guidance_scale != 1)
    expected = dict(model.text_to_image.engine.generate(requests, params)) if given.images else {}
    result: dict[str, Any] = {
        "command": f"python benchmarks/in_a_browser.py {' '.join(sys.argv[1:])}".split(" --out")[0],
        "model": given.model,
        "hash": model.model_hash,
        "runtime": f"{PACKAGE} {VERSION}",
        "seed": SEED,
        "threads": 1,
    }

    def keep(name: str, found: Any) -> None:
        result[name] = found
        print(name, json.dumps(found), flush=True)
        if given.out:
            given.out.write_text(json.dumps(result, indent=1) + "\n")

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=180_000)
        keep("chromium", browser.version)
        for weights in ("int8", "fp32"):
            site = Path(place) / weights
            write_page(model.bundle, site, weights, given.runtime)  # type: ignore[arg-type]
            handler = functools.partial(Quiet, directory=str(site))
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            megabytes = json.loads((site / INDEX).read_text())["bytes"] / 1e6
            keep(f"page_{weights}", {"megabytes": megabytes, **opened(browser, address)})
            page = browser.new_page()
            page.set_default_timeout(0)
            page.goto(f"{address}/{INDEX}")
            for name, jacobi in (("jacobi", True), ("sequential", False)):
                made = page.evaluate(GENERATE, [PROMPTS, SEED, 0, given.timed, jacobi])
                times = [milliseconds / 1e3 for _, milliseconds in made]
                keep(
                    f"image_{weights}_{name}",
                    {"median_seconds": statistics.median(times), "most": max(times)},
                )
            keep(f"memory_{weights}", {"megabytes": memory()})
            if weights == "fp32":
                differing = list[int]()
                for first in range(0, given.images, 10):
                    end = min(first + 10, given.images)
                    made = page.evaluate(GENERATE, [PROMPTS, SEED, first, end, True])
                    differing += [
                        first + i
                        for i, (codes, _) in enumerate(made)
                        if codes != expected[first + i].tolist()
                    ]
                    keep("codes", {"images": end, "same": end - len(differing), "differing": differing})
            page.close()
            server.shutdown()
        browser.close()


if __name__ == "__main__":
    main()
