"""What ``cogview data`` is asked for: where data come from, how images are decoded, what is built of them.

Nothing here imports PyTorch before a build begins.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator

from cogview.checkpoints.bundle import MaybeModelName, ModelBundle
from cogview.config import Config, MaybeExisting, option
from cogview.data import sources
from cogview.data.decoders import workers_for
from cogview.data.images import Limits
from cogview.data.launchers import rank_here
from cogview.data.shards import TRANSLATIONS, Preprocessing
from cogview.data.sources import VALIDATION, Source, parse_captions
from cogview.errors import CogViewError
from cogview.ray_cluster import Cluster
from cogview.types import Device, Resample

if TYPE_CHECKING:
    from cogview.data.build import Builder, Progress, Progressed, Share
    from cogview.tokenizers.text import TextTokenizer


class Origin(Config):
    """Where the data are, and how they are read."""

    source: Path = option(
        ...,
        "A folder of pictures with .txt captions beside them; a CSV, TSV, JSON, JSONL or Parquet file; a zip "
        "or tar; WebDataset shards; a saved Hugging Face data set.",
        argument=True,
        metavar="SOURCE",
    )
    column: tuple[str, ...] = option(
        (),
        "Which column of a table holds what: image=photo, caption.zh=title, keyword.en=tags, style.en=look, "
        "key=…, source=…, split=…. Usual names are found.",
        metavar="ROLE=NAME",
        repeated=True,
    )
    images: MaybeExisting = option(None, "The folder of a table's pictures.", shown="its own")
    caption: Annotated[dict[str, tuple[str, ...]], BeforeValidator(parse_captions)] = option(
        {},
        'One caption for every picture, instead of its own: "en=An image of ink style".',
        metavar="[LANG=]TEXT",
        repeated=True,
    )
    translate: str | None = option(
        None,
        "Add Chinese captions: a command that reads captions, one a line, and writes as many lines.",
        metavar="COMMAND",
    )
    translations: Path | None = option(
        None,
        "Where translations are kept, so that nothing is translated twice (build: OUT/translations).",
        metavar="FOLDER",
    )

    def open(self, validation: float = VALIDATION, kept: Path | None = None) -> Source:
        """The source; ``kept``: where translations are kept if nothing is said."""
        columns = sources.Columns.parse(list(self.column))
        opened = sources.open_source(self.source, columns, self.images, validation)
        if self.caption:
            opened = sources.CaptionedSource(opened, self.caption)
        if self.translate:
            command, cache = sources.command_translator(self.translate), self.translations or kept
            opened = sources.TranslatedSource(opened, command, name=self.translate, cache=cache)
        return opened


class Decoding(Config):
    """How images are decoded, and which are held out."""

    validation: float = option(
        VALIDATION, 'Share of the pictures for the split "val", where no column says it.', ge=0, le=1
    )
    limits: Limits = Limits()
    workers: int | None = option(
        None,
        "Processes that decode images; 0: none, and no time limit.",
        shown="one a core but one, at most 8",
        ge=0,
    )

    def processes(self, source: Source) -> int:
        """How many processes decode; few records need few."""
        return self.workers if self.workers is not None else workers_for(source)


class Square(Config):
    """How images are made square."""

    resample: Resample = option("bilinear", "How to resize; bilinear as CogView did.")
    crop: Literal["centre", "random"] = option(
        "centre",
        "centre: of the resized image; random: a square of the original, at a random place.",
    )

    def of(self, size: int) -> Preprocessing:
        """For images of this size in pixels."""
        return Preprocessing(size=size, resample=self.resample, crop=self.crop)


class Tokenizers(Config):
    """What encodes images and captions."""

    image_tokenizer: MaybeExisting = option(None, "An image tokenizer's directory.")
    text_tokenizer: MaybeExisting = option(None, "A text tokenizer's .model file.")
    tokenizers: MaybeModelName = option(None, "Both tokenizers of a model, to finetune it.", metavar="FAMILY")

    def places(self) -> tuple[Path, Path]:
        """Where both are: as given, else a family's."""
        images, texts = self.image_tokenizer, self.text_tokenizer
        if self.tokenizers:
            found = ModelBundle.find(self.tokenizers)
            images = images or found.directory / found.config.image_tokenizer
            texts = texts or found.directory / found.config.text_tokenizer
        if images is None or texts is None:
            missing = "--image-tokenizer" if images is None else "--text-tokenizer"
            raise CogViewError(f"give {missing}, or --tokenizers FAMILY for those of a model")
        return images, texts


class Building(Config):
    """Where shards go, and how they are made."""

    out: Path = option(..., "The directory for the shards.", argument=True, metavar="OUT")
    size: int | None = option(
        None, "Side of the pictures.", shown="the tokenizer's own; --scale times it to upscale", ge=1
    )
    super_resolution: bool = option(False, "Encode each picture small too, for upscaling.")
    scale: int = option(2, "For super-resolution: how many times smaller a side is then.", ge=2)
    rank: int | None = option(
        None, "Which of --ranks this is.", shown="as torchrun, Slurm or mpirun say", ge=0
    )
    ranks: int | None = option(
        None, "How many machines or GPUs share the build; each takes its own part.", shown="the same", ge=1
    )
    device: Device = option("auto", "auto, cpu, cuda, cuda:N or mps; auto takes the GPU of this rank.")
    batch: int = option(64, "Pictures encoded at once.", ge=1)
    shard_records: int = option(4096, "Records of the source to a shard.", ge=1)
    restart: bool = option(False, "Delete an earlier build and begin again.")

    def share(self) -> Share:
        """The part of the build that is this process's: as given, else as its launcher says."""
        from cogview.data.build import Share

        if (self.rank is None) != (self.ranks is None):
            raise CogViewError("give --rank and --ranks together, or neither")
        if self.rank is not None and self.ranks is not None:
            return Share(self.rank, self.ranks)
        return Share(*rank_here())


class Learned(Config):
    """The text tokenizer that is made."""

    out: Path = option(..., "The .model file to write.", argument=True, metavar="OUT")
    pieces: int = option(8000, "How many text tokens to learn.", ge=1)
    algorithm: Literal["unigram", "bpe"] = option("unigram", "unigram, as CogView2's icetk; bpe, as CogView.")
    no_byte_fallback: bool = option(
        False, "Text that is not covered becomes unknown tokens instead of bytes."
    )
    coverage: float = option(0.9995, "Share of the characters that get a token.", gt=0.9, le=1)
    classes: bool = option(False, "Sort tokens by script: common, English, Chinese, rare; as icetk.")

    def train(self, source: Source) -> TextTokenizer:
        """Learn from all captions of a source, those with style phrases and the keywords among them."""
        records = source.records()
        from cogview.tokenizers.language_classes import sorted_by_class
        from cogview.tokenizers.text import TextTokenizer

        tokenizer = TextTokenizer.train(
            (caption.text for record in records for caption in record.captions),
            self.pieces,
            algorithm=self.algorithm,
            byte_fallback=not self.no_byte_fallback,
            character_coverage=self.coverage,
        )
        return sorted_by_class(tokenizer) if self.classes else tokenizer


def open_builder(
    origin: Origin, building: Building, tokenizers: Tokenizers, decoding: Decoding, square: Square
) -> Builder:
    """The build, or this process's part of it; wrong arguments are found before PyTorch is imported."""
    images_at, texts_at = tokenizers.places()
    source = origin.open(decoding.validation, building.out / TRANSLATIONS)
    from cogview.data.build import Builder, BuildSettings
    from cogview.data.encoding import OnDevice, encoding_device
    from cogview.tokenizers.loading import read_image_tokenizer
    from cogview.tokenizers.text import TextTokenizer

    share, encoder = building.share(), read_image_tokenizer(images_at)
    times = building.scale if building.super_resolution else 1
    settings = BuildSettings(
        preprocessing=square.of(building.size or encoder.image_size * times),
        super_resolution=building.super_resolution,
        scale=building.scale,
        limits=decoding.limits,
        shard_records=building.shard_records,
        batch=building.batch,
        workers=decoding.processes(source),
    )
    on_device, text = OnDevice(encoder, encoding_device(building.device)), TextTokenizer.from_file(texts_at)
    return Builder(source, building.out, on_device, text, settings, share)


def block_builder(
    origin: Origin, building: Building, tokenizers: Tokenizers, decoding: Decoding, square: Square
) -> Callable[[int], int]:
    """What builds a block of a build that was begun, by its number; for a worker."""
    return open_builder(origin, building, tokenizers, decoding, square).build_block


def build(
    origin: Origin,
    building: Building,
    tokenizers: Tokenizers,
    decoding: Decoding,
    square: Square,
    cluster: Cluster,
    progress: Progress,
) -> Progressed:
    """Build, or this process's part of it; on a cluster, if that is asked for, each worker some blocks."""
    cluster.check()
    if cluster.ray is None:
        return open_builder(origin, building, tokenizers, decoding, square).run(building.restart, progress)
    if building.rank is not None:
        raise CogViewError("--ray shares the build out itself; leave --rank and --ranks out")
    building = building.model_copy(update={"rank": 0, "ranks": 1})
    if decoding.workers is None:
        decoding = decoding.model_copy(update={"workers": 1})
    parts = (origin, building, tokenizers, decoding, square)
    spread = partial(cluster.results, partial(block_builder, *parts))
    return open_builder(*parts).run(building.restart, progress, spread)
