"""A whole human study with simulated raters in real browsers, while its server is killed again and again.

Twenty raters (phones and desktops, English and Chinese, some without JavaScript) rate small drawings of four
"models", which are the same shapes drawn worse and worse, two of them by the A-B test. Some raters contradict
themselves. The server is killed with SIGKILL and started anew midway. At the end every answer that a rater
gave is compared with the database's, and the report with a plain computation from its CSV.

    pip install 'cogview[study]' playwright
    python examples/study/simulate.py --out runs/study --raters 20 --chromium /usr/bin/chromium
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

COLOURS = {
    "red": ("红色", "#d33"),
    "green": ("绿色", "#2a8"),
    "blue": ("蓝色", "#36c"),
    "yellow": ("黄色", "#ec3"),
}
SHAPES = {"circle": "圆", "square": "方块", "triangle": "三角形"}
QUALITY = {"real": 9.0, "sharp": 7.5, "plain": 5.5, "old": 3.0}  # the mean overall score a rater gives
CLI = [sys.executable, "-c", "import sys; from cogview.cli.app import main; sys.exit(main())", "study"]
SCALES = ("clarity", "texture", "relevance", "overall")


# ------------------------------------------------------------------------------------------------ the study


def draw(colour: str, shape: str, blur: float) -> Image.Image:
    """A shape, blurred as an older model would."""
    image = Image.new("RGB", (96, 96), "#f4f1ea")
    pen = ImageDraw.Draw(image)
    points = {"circle": None, "square": None, "triangle": ((48, 14), (16, 80), (80, 80))}[shape]
    if points:
        pen.polygon(points, fill=colour)
    else:
        (pen.ellipse if shape == "circle" else pen.rectangle)((16, 16, 80, 80), fill=colour)
    return image.filter(ImageFilter.GaussianBlur(blur))


def make_study(out: Path, captions: int) -> Path:
    """Folders of pictures, a table of captions, and the study that the command line makes of them."""
    rows = [(c, s) for s in SHAPES for c in COLOURS][:captions]
    for model, quality in QUALITY.items():
        (out / model).mkdir(parents=True)
        for colour, shape in rows:
            blur = (9 - quality) / 1.5
            draw(COLOURS[colour][1], shape, blur).save(out / model / f"{colour}-{shape}.png")
    with (out / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "en", "zh"])
        table.writerows(
            [f"{c}-{s}", f"a {c} {s} on a light ground", f"浅色背景上的{COLOURS[c][0]}{SHAPES[s]}"]
            for c, s in rows
        )
    models = [word for model in QUALITY for word in ("--model", f"{model}={out / model}")]
    options = ["--captions", str(out / "captions.csv"), "--ab", "plain,sharp", "--title", "Shapes"]
    subprocess.run([*CLI, "create", str(out / "study"), *models, *options], check=True)
    return out / "study"


class Server:
    """``cogview study serve`` in a process of its own, on a port that stays the same."""

    def __init__(self, study: Path, raters: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.command = [*CLI, "serve", str(study), "--raters", str(raters), "--port", str(self.port)]
        self.raters = raters
        self.links = self.start()

    def start(self) -> list[str]:
        """Start it; the raters' links."""
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout
        lines = [self.process.stdout.readline() for _ in range(self.raters)]
        return [line.split("\t")[1].strip() for line in lines]

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


# ------------------------------------------------------------------------------------------------ the raters


class Rater:
    """A simulated person: a browser and a taste of their own, and a memory of what they answered."""

    def __init__(self, number: int, link: str, captions: int) -> None:
        self.number, self.link, self.captions = number, link, captions
        self.random = Random(number)
        self.contradicts = number % 7 == 3  # chooses the worst as the best
        self.script = number % 5 != 4  # every fifth has no JavaScript
        self.given: dict[str, dict[str, int]] = {}

    def options(self) -> dict[str, Any]:
        """Of the browser's context: every second rater has a phone, every third reads Chinese."""
        phone = self.number % 2 == 0
        return {
            "viewport": {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800},
            "is_mobile": phone,
            "has_touch": phone,
            "locale": "zh-CN" if self.number % 3 == 0 else "en-GB",
            "color_scheme": "dark" if self.number % 4 == 0 else "light",
            "java_script_enabled": self.script,
        }

    async def open(self, page: Any, address: str) -> None:
        """Go to an address, again and again while the server is away."""
        while True:
            try:
                await page.goto(address)
                return
            except Exception as error:
                if "ERR_" not in str(error) and "interrupted" not in str(error):
                    raise
                await asyncio.sleep(0.5)

    async def rate(self, browser: Any, counter: list[int]) -> None:
        """Finish the whole study."""
        context = await browser.new_context(**self.options())
        page = await context.new_page()
        page.set_default_timeout(240_000)
        await self.open(page, self.link)
        await self.open(page, f"{self.link}/next")
        while page.url != self.link:
            if page.url.startswith(self.link):
                taken = await self.answer(page)
                counter[0] += taken
            else:  # the browser's own page for a server that does not answer
                await self.open(page, f"{self.link}/next")
        await context.close()

    async def answer(self, page: Any) -> bool:
        """Fill in the form that is open, and send it until the server has taken it."""
        address = page.url
        step = address.removeprefix(f"{self.link}/")
        if not step[0].isdigit():
            await self.open(page, f"{self.link}/next")
            return False
        scores = await (self.choose(page, step) if step.endswith("best") else self.score(page, step))
        for name, value in scores.items():
            await page.check(f'input[name={name}][value="{value}"]', force=True)
        self.given[step] = scores
        patience = 240_000 if self.script else 15_000
        try:
            await page.click("button[type=submit]", click_count=1 + (self.number % 2), no_wait_after=True)
            await page.wait_for_url(lambda url: url != address, timeout=patience)
            return True
        except Exception as error:
            if "ERR_" not in str(error) and (self.script or "Timeout" not in str(error)):
                raise
            await self.open(page, f"{self.link}/next")  # the browser said that nobody answers: open it again
            return page.url != address

    async def score(self, page: Any, step: str) -> dict[str, int]:
        """Scores by how sharp the picture is, since nothing says which model drew it."""
        source = await page.get_attribute("figure img", "src")
        while True:
            try:
                reply = await page.context.request.get(f"{self.link.split('/r/')[0]}{source}")
                break
            except Exception:
                await asyncio.sleep(0.5)
        image = Image.open(io.BytesIO(await reply.body())).convert("L")
        edges = image.filter(ImageFilter.FIND_EDGES).crop((2, 2, 94, 94)).getextrema()[1]
        quality = min(10.0, 2 + 8 * edges / 255)
        overall = self._near(quality, 10)
        return {name: self._near(quality / 2, 5) for name in SCALES[:3]} | {"overall": overall}

    def _near(self, mean: float, highest: int) -> int:
        return min(highest, max(1, round(self.random.gauss(mean, highest / 12))))

    async def choose(self, page: Any, step: str) -> dict[str, int]:
        """The picture with the highest score; for those who contradict themselves, the lowest."""
        position = step.split("/")[0]
        scores = {
            int(key.split("/")[1]): given["overall"]
            for key, given in self.given.items()
            if key.split("/")[0] == position and not key.endswith("best")
        }
        pick = min if self.contradicts else max
        return {"best": pick(scores, key=lambda slot: scores[slot])}


async def run_raters(
    server: Server, raters: Sequence[Rater], chromium: str | None, kills: int, total: int
) -> None:
    """All raters at once; the server is killed and started anew ``kills`` times on the way."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        counter = [0]
        work = [asyncio.create_task(rater.rate(browser, counter)) for rater in raters]
        for kill in range(1, kills + 1):
            while counter[0] < total * kill / (kills + 1):
                await asyncio.sleep(0.1)
                for task in work:
                    if task.done():
                        task.result()
            server.kill()
            print(f"killed after {counter[0]} of {total} answers", flush=True)
            await asyncio.sleep(2)
            await asyncio.to_thread(server.start)
        await asyncio.gather(*work)
        await browser.close()


# ------------------------------------------------------------------------------------------------ the check


def brute_force(path: Path, threshold: float = 0.8) -> dict[str, Any]:
    """The report's figures from ``ratings.csv`` alone, as plainly as they can be computed."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = []
    for rater in sorted({row["rater"] for row in rows}):
        mine = [row for row in rows if row["rater"] == rater]
        if any(not row["overall"] or not row["best"] for row in mine):
            continue
        positions = {row["position"] for row in mine}
        agree = 0
        for position in positions:
            group = [row for row in mine if row["position"] == position]
            best = [int(row["overall"]) for row in group if row["best"] == "1"]
            agree += best == [max(int(row["overall"]) for row in group)]
        if agree / len(positions) > threshold:
            kept.append(rater)
    found: dict[str, Any] = {"kept": sorted(int(rater) for rater in kept), "models": {}}
    for model in {row["model"] for row in rows}:
        mine = [row for row in rows if row["model"] == model and row["rater"] in kept]
        if mine:
            found["models"][model] = {
                "share": sum(row["best"] == "1" for row in mine) / len(mine),
                "scores": {
                    scale: (
                        len(mine),
                        statistics.mean(int(row[scale]) for row in mine),
                        statistics.stdev(int(row[scale]) for row in mine) if len(mine) > 1 else None,
                    )
                    for scale in SCALES
                },
            }
    return found


def same_figures(report: dict[str, Any], brute: dict[str, Any]) -> None:
    """Raise AssertionError unless report.json says what ``brute_force`` found."""
    figures = report["figures"]
    kept = [rater["rater"] for rater in figures["raters"] if rater["outcome"] == "kept"]
    assert kept == brute["kept"], (kept, brute["kept"])
    assert set(figures["models"]) == set(brute["models"])
    for name, model in figures["models"].items():
        expected = brute["models"][name]
        assert abs(model["best"]["share"] - expected["share"]) < 1e-12, name
        for scale, (n, mean, deviation) in expected["scores"].items():
            got = model["scores"][scale]
            assert got["n"] == n and abs(got["mean"] - mean) < 1e-12, (name, scale)
            assert deviation is None or abs(got["deviation"] - deviation) < 1e-12, (name, scale)


def nothing_lost(path: Path, raters: Sequence[Rater]) -> int:
    """Raise AssertionError unless the CSV holds exactly what the raters gave; how many answers there are."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    count = 0
    for rater in raters:
        for row in (row for row in rows if row["rater"] == str(rater.number)):
            given = rater.given[f"{row['position']}/{row['slot']}"]
            assert {scale: int(row[scale]) for scale in SCALES} == given, row
            best = rater.given[f"{row['position']}/best"]["best"]
            assert row["best"] == str(int(best == int(row["slot"]))), row
            count += 1
    assert count == len(rows)
    return count + sum(row["best"] == "1" for row in rows)


def simulate(out: Path, raters: int, captions: int, kills: int, chromium: str | None) -> dict[str, Any]:
    """The whole run; the report's JSON. AssertionError where anything is lost or counted wrongly."""
    study = make_study(out, captions)
    total = raters * captions * len(QUALITY)  # three pictures and a choice for a caption
    server = Server(study, raters)
    people = [Rater(number, link, captions) for number, link in enumerate(server.links, 1)]
    try:
        asyncio.run(run_raters(server, people, chromium, kills, total))
    finally:
        server.kill()
    subprocess.run([*CLI, "report", str(study), "-o", str(out / "report")], check=True, env=os.environ)
    assert nothing_lost(out / "report" / "ratings.csv", people) == total
    report: dict[str, Any] = json.loads((out / "report" / "report.json").read_text(encoding="utf-8"))
    same_figures(report, brute_force(out / "report" / "ratings.csv"))
    return report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="a new folder")
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--captions", type=int, default=6)
    parser.add_argument("--kills", type=int, default=2, help="how often the server is killed")
    parser.add_argument(
        "--chromium", default=shutil.which("chromium"), help="default: as Playwright installed it"
    )
    given = parser.parse_args()
    begun = time.monotonic()
    report = simulate(given.out, given.raters, given.captions, given.kills, given.chromium)
    outcomes = [rater["outcome"] for rater in report["figures"]["raters"]]
    print(
        f"{len(outcomes)} raters finished in {time.monotonic() - begun:.0f} s, "
        f"{outcomes.count('kept')} kept; nothing is lost, and the report is what the CSV says"
    )


if __name__ == "__main__":
    main()
