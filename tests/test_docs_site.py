"""The documentation site: built without a warning, all links lead somewhere, nothing comes from elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


class Page(HTMLParser):
    """The links and ids of a page, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        if tag in ("script", "img") or given.get("rel") in ("stylesheet", "icon"):
            self.loaded += [given[name] for name in ("src", "href") if name in given]


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 40
    wrong = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            there = not anchor or target not in pages or anchor in pages[target].ids
            if not target.is_file() or not there:
                wrong.append((str(path.relative_to(site)), link))
    assert not wrong


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not [link for link in Page(path).loaded if urlsplit(link).netloc]


def test_both_languages_are_found(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert {"en", "zh"} <= set(index["config"]["lang"])
    words = {
        word: [
            entry["location"].partition("#")[0]
            for entry in index["docs"]
            if word in entry["text"].split("\u200b")
        ]
        for word in ("图片", "码本")  # as the index cuts Chinese into words
    }
    assert all("repository/README.zh/" in places for places in words.values())


def test_the_public_names_are_documented(site: Path) -> None:
    import cogview

    page = Page(site / "api" / "index.html")
    last = {name.rpartition(".")[2] for name in page.ids}
    missing = {name for name in cogview.__all__ if name not in last} - {
        "__version__", "CogView", "CogView2", "Config",
    }  # fmt: skip
    assert not missing
    assert {"generate", "edit", "upscale", "caption", "score", "rerank", "vary"} <= last
