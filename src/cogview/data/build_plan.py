"""The options of ``cogview data``: the source, how images are decoded, and what is built.

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
    """The source of the data, and how it is read."""

    source: Path = option(
        ...,
        "A folder of images with .txt captions beside them; a CSV, TSV, JSON, JSONL or Parquet file; a zip "
        "or tar; WebDataset shards; a saved Hugging Face data set.",
        argument=True,
        metavar="SOURCE",
    )
    column: tuple[str, ...] = option(
        (),
        "The role of a table's column: image=photo, caption.zh=title, keyword.en=tags, style.en=look, "
        "key=…, source=…, split=…. Common names are recognised.",
        metavar="ROLE=NAME",
        repeated=True,
    )
    images: MaybeExisting = option(None, "The folder of a table's images.", shown="that of the table")
    caption: Annotated[dict[str, tuple[str, ...]], BeforeValidator(parse_captions)] = option(
        {},
        'One caption for every image, instead of its own: "en=An image of ink style".',
        metavar="[LANG=]TEXT",
        repeated=True,
    )
    translate: str | None = option(
        None,
        "Add Chinese captions: a command that reads captions, one per line, and writes as many lines.",
        metavar="COMMAND",
    )
    translations: Path | None = option(
        None,
        "Where translations are cached, so that nothing is translated twice (build: OUT/translations).",
        metavar="FOLDER",
    )

    def open(self, validation: float = VALIDATION, translations: Path | None = None) -> Source:
        """Open the source; translations: the default folder for cached translations."""
        columns = sources.Columns.parse(list(self.column))
        source = sources.open_source(self.source, columns, self.images, validation)
        if self.caption:
            source = sources.CaptionedSource(source, self.caption)
        if self.translate:
            command, cache = sources.command_translator(self.translate), self.translations or translations
            source = sources.TranslatedSource(source, command, name=self.translate, cache=cache)
        return source


class Decoding(Config):
    """How images are decoded, and which are held out."""

    validation: float = option(
        VALIDATION, 'Share of the images for the split "val", if no column sets it.', ge=0, le=1
    )
    limits: Limits = Limits()
    workers: int | None = option(
        None,
        "Processes that decode images; 0: decode in this process, without a time limit.",
        shown="one per core but one, at most 8",
        ge=0,
    )

    def processes(self, source: Source) -> int:
        """The number of decoding processes; fewer for small sources."""
        return self.workers if self.workers is not None else workers_for(source)


class Square(Config):
    """How images are made square."""

    resample: Resample = option("bilinear", "How to resize; bilinear as in CogView.")
    crop: Literal["centre", "random"] = option(
        "centre",
        "centre: of the resized image; random: a square of the original, at a random position.",
    )

    def of(self, size: int) -> Preprocessing:
        """The preprocessing for images of this size in pixels."""
        return Preprocessing(size=size, resample=self.resample, crop=self.crop)


class Tokenizers(Config):
    """The tokenizers that encode images and captions."""

    image_tokenizer: MaybeExisting = option(None, "An image tokenizer's directory.")
    text_tokenizer: MaybeExisting = option(None, "A text tokenizer's .model file.")
    tokenizers: MaybeModelName = option(None, "Both tokenizers of a model, to finetune it.", metavar="FAMILY")

    def places(self) -> tuple[Path, Path]:
        """The paths of the image and text tokenizer; default: those of the family."""
        images, texts = self.image_tokenizer, self.text_tokenizer
        if self.tokenizers:
            family = ModelBundle.find(self.tokenizers)
            images = images or family.directory / family.config.image_tokenizer
            texts = texts or family.directory / family.config.text_tokenizer
        if images is None or texts is None:
            missing = "--image-tokenizer" if images is None else "--text-tokenizer"
            raise CogViewError(f"give {missing}, or --tokenizers FAMILY for those of a model")
        return images, texts


class Building(Config):
    """Where shards are written, and how they are built."""

    out: Path = option(..., "The directory for the shards.", argument=True, metavar="OUT")
    size: int | None = option(
        None, "Side of the images in pixels.", shown="the tokenizer's; --scale times it to upscale", ge=1
    )
    super_resolution: bool = option(False, "Also encode each image at a smaller size, for upscaling.")
    scale: int = option(2, "For super-resolution: the ratio of large to small sides.", ge=2)
    rank: int | None = option(
        None, "The rank of this process among --ranks.", shown="as set by torchrun, Slurm or mpirun", ge=0
    )
    ranks: int | None = option(
        None, "How many machines or GPUs share the build; each builds a part.", shown="the same", ge=1
    )
    device: Device = option("auto", "auto, cpu, cuda, cuda:N or mps; auto takes the GPU of this rank.")
    batch: int = option(64, "Images encoded at once.", ge=1)
    shard_records: int = option(4096, "Records of the source per shard.", ge=1)
    restart: bool = option(False, "Delete an earlier build and begin again.")

    def share(self) -> Share:
        """The part of the build for this process; default: as set by its launcher."""
        from cogview.data.build import Share

        if (self.rank is None) != (self.ranks is None):
            raise CogViewError("give --rank and --ranks together, or neither")
        if self.rank is not None and self.ranks is not None:
            return Share(self.rank, self.ranks)
        return Share(*rank_here())


class Learned(Config):
    """Options for training a text tokenizer."""

    out: Path = option(..., "The .model file to write.", argument=True, metavar="OUT")
    pieces: int = option(8000, "Number of text tokens to learn.", ge=1)
    algorithm: Literal["unigram", "bpe"] = option("unigram", "unigram, as CogView2's icetk; bpe, as CogView.")
    no_byte_fallback: bool = option(
        False, "Encode characters that are not covered as unknown tokens instead of bytes."
    )
    coverage: float = option(0.9995, "Share of the characters that get a token.", gt=0.9, le=1)
    classes: bool = option(False, "Sort tokens by script: common, English, Chinese, rare; as icetk.")

    def train(self, source: Source) -> TextTokenizer:
        """Train on all captions of a source, including styled captions and keywords."""
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
    """The build, or this process's part of it; arguments are checked before PyTorch is imported."""
    image_path, text_path = tokenizers.places()
    source = origin.open(decoding.validation, building.out / TRANSLATIONS)
    from cogview.data.build import Builder, BuildSettings
    from cogview.data.encoding import OnDevice, encoding_device
    from cogview.tokenizers.loading import read_image_tokenizer
    from cogview.tokenizers.text import TextTokenizer

    share, encoder = building.share(), read_image_tokenizer(image_path)
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
    on_device, text = OnDevice(encoder, encoding_device(building.device)), TextTokenizer.from_file(text_path)
    return Builder(source, building.out, on_device, text, settings, share)


def block_builder(
    origin: Origin, building: Building, tokenizers: Tokenizers, decoding: Decoding, square: Square
) -> Callable[[int], int]:
    """A function that builds one block of a started build, by its number; for workers."""
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
    """Run the build, or this process's part of it; on a Ray cluster workers share the blocks."""
    cluster.check()
    if cluster.ray is None:
        return open_builder(origin, building, tokenizers, decoding, square).run(building.restart, progress)
    if building.rank is not None:
        raise CogViewError("--ray distributes the build; leave out --rank and --ranks")
    building = building.model_copy(update={"rank": 0, "ranks": 1})
    if decoding.workers is None:
        decoding = decoding.model_copy(update={"workers": 1})
    parts = (origin, building, tokenizers, decoding, square)
    spread = partial(cluster.results, partial(block_builder, *parts))
    return open_builder(*parts).run(building.restart, progress, spread)
