"""Many clients of one server at once, by locust: is every picture delivered, and how long does it take?

    pip install locust
    python benchmarks/server_load.py --clients 200 --minutes 10 --out benchmarks/results/server_load.json

Each client asks for one picture after the other, waits one to five seconds in between, and does what
`Retry-After` says when the queue is full, as official clients do. *Seconds* are from the first try to the
picture. Nobody is cut off at the end; the server then gets SIGTERM and has to exit with 0.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from cogview.checkpoints.bundle import ModelBundle

PROMPTS = ("a red apple", "a blue bird", "a green tree", "a yellow star", "一只红色的猫", "一朵紫色的花")
PATH = "/v1/images/generations"


def clients() -> type:
    """The client that locust runs many of."""
    from locust import HttpUser, between, task

    class Client(HttpUser):  # type: ignore[misc]
        wait_time = between(1, 5)

        @task  # type: ignore[misc]
        def picture(self) -> None:
            """One picture, however often it has to be asked for."""
            asked = {"prompt": random.choice(PROMPTS), "quality": "low", "seed": random.getrandbits(32)}
            begun, tries, wrong = time.monotonic(), 0, None
            while True:
                tries += 1
                with self.client.post(PATH, json=asked, catch_response=True, name="tries") as answer:
                    full = answer.status_code == 429
                    if full:
                        answer.success()  # an answer as it should be
                if not full:
                    break
                time.sleep(int(answer.headers["Retry-After"]))
            if answer.status_code != 200 or not answer.json()["data"][0]["b64_json"]:
                wrong = RuntimeError(f"status {answer.status_code}")
            took = 1000 * (time.monotonic() - begun)
            event = {"request_type": "PICTURE", "name": "picture", "response_length": tries}
            self.environment.events.request.fire(response_time=took, exception=wrong, context={}, **event)

    return Client


def serve(queue: int, together: int, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server in a process of its own, and its address."""
    command = [sys.executable, "-m", "cogview.cli", "serve", "pictogram", "--port", "0"]
    command += ["--queue", str(queue), "--together", str(together), "--threads", "1"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    while not (found := re.search(r"http://[\d.:]+", log.read_text())):
        time.sleep(0.5)
    while "serving" not in log.read_text():
        time.sleep(0.5)
    return process, found[0]


def memory(process: subprocess.Popen[bytes]) -> int:
    """Resident megabytes."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) >> 10


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything of one run."""
    process, address = serve(args.queue, args.together, folder / "serve.log")
    before = memory(process)
    locust = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        __file__,
        "--headless",
        "--host",
        address,
        "--csv",
        "load",
    ]
    locust += [
        "-u",
        str(args.clients),
        "-r",
        "20",
        "-t",
        f"{round(60 * args.minutes)}s",
        "--stop-timeout",
        "600",
    ]
    subprocess.run(locust, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    with urlopen(f"{address}/metrics") as answer:
        metrics = answer.read().decode()
    after = memory(process)
    process.send_signal(signal.SIGTERM)
    code = process.wait(120)
    with (folder / "load_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    picture, tries = rows["picture"], rows["tries"]
    batches = float(re.findall(r"cogview_batch_pictures_count (\S+)", metrics)[0])
    made = float(re.findall(r'cogview_pictures_total\{model="pictogram"\} (\S+)', metrics)[0])
    return {
        "model": ModelBundle.find("pictogram").hash,
        "clients": args.clients,
        "minutes": args.minutes,
        "queue": args.queue,
        "pictures": int(picture["Request Count"]),
        "lost": int(picture["Failure Count"]),
        "answers that said to wait": int(tries["Request Count"]) - int(picture["Request Count"]),
        "pictures a batch": round(made / batches, 1),
        "seconds": {
            name: round(float(picture[column]) / 1000, 1)
            for name, column in (("median", "50%"), ("p95", "95%"), ("p99", "99%"), ("longest", "100%"))
        },
        "megabytes": {"before": before, "after": after},
        "exit code after SIGTERM": code,
        "load average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--together", type=int, default=16)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(args, Path(folder))
    text = json.dumps(found, indent=2)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
else:
    Client = clients()
