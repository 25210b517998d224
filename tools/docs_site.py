"""What the documentation site needs beside docs/: hooks of MkDocs, and one of its reader of docstrings.

With COGVIEW_DEMO in the environment the home page leads to ``demo/``, where ``make site`` puts the page that
generates in the browser.

Pages link to files of the repository. Those files become part of the site, under ``repository/``: Markdown
as pages, others as they are, so that every link leads somewhere without an address of the repository. A link
to a folder leads to its README.md, or is taken away where there is none.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS, OTHERS = "docs/", "repository/"
ALWAYS = ("README.md", "README.zh.md")
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s#]+)(?P<place>#[^)\s]*)?\)")
DEMO = '<a class="md-button md-button--primary" href="demo/">Generate in this browser · 在浏览器里画图</a>'
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
ROLE = re.compile(r":[a-z]+:`~?([^`<]+)`")


def source_of(uri: str) -> str:
    """Where a file of the site lies in the repository."""
    return uri.removeprefix(OTHERS) if uri.startswith(OTHERS) else DOCS + uri


def uri_of(source: str) -> str:
    """Where a file of the repository lies in the site."""
    return source.removeprefix(DOCS) if source.startswith(DOCS) else OTHERS + source


def meant(source: str, target: str) -> str | None:
    """The file of the repository that a link in ``source`` leads to; None for an address or nothing."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if (ROOT / path).is_dir():
        path += "/README.md"
    return path if (ROOT / path).is_file() else None


def linked(source: str) -> Iterator[str]:
    """The files of the repository that a page leads to."""
    text = CODE.sub("", (ROOT / source).read_text("utf-8"))
    for found in LINK.finditer(text):
        if path := meant(source, found["target"]):
            yield path


def on_files(files: Files, config: Any) -> Files:
    """Add all that pages lead to."""
    waiting = [*ALWAYS, *(source_of(file.src_uri) for file in files.documentation_pages())]
    seen: set[str] = set()
    while waiting:
        source = waiting.pop()
        if source in seen:
            continue
        seen.add(source)
        if not source.startswith(DOCS):
            files.append(File.generated(config, uri_of(source), abs_src_path=str(ROOT / source)))
        if source.endswith(".md"):
            waiting += linked(source)
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turn links to files of the repository into links to where they lie in the site."""
    source = source_of(page.file.src_uri)

    def moved(found: re.Match[str]) -> str:
        if "://" in found["target"] or found["target"].startswith("mailto:"):
            return found[0]
        path = meant(source, found["target"])
        if path is None:
            return found["text"].strip("!")[1:-1]
        target = posixpath.relpath(uri_of(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{found['text']}({target}{found['place'] or ''})"

    parts, end = [], 0
    for block in CODE.finditer(markdown):
        parts += [LINK.sub(moved, markdown[end : block.start()]), block[0]]
        end = block.end()
    found = "".join([*parts, LINK.sub(moved, markdown[end:])])
    if source == "docs/index.md" and os.environ.get("COGVIEW_DEMO"):
        heading, _, rest = found.partition("\n")
        return f"{heading}\n\n{DEMO}\n{rest}"
    return found


class PlainDocstrings(griffe.Extension):
    """Docstrings as Markdown: the roles that they have become code."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Called for every class, function and module that is read."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
