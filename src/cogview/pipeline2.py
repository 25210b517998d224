"""CogView2's pipeline: a CogLM draws, fills what is masked, varies, describes and scores (section 3).

``CogView2.from_pretrained(name).edit(picture, "a red hat", mask="mask.png")``. One model does it all, by what
of a sequence is masked; :class:`~cogview.pipeline.CogView` is the pipeline of models that only draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from cogview.coglm import CogLMFormat
from cogview.coglm.captions import Captions
from cogview.coglm.format import collate
from cogview.coglm.regions import PATCH, sample_mask
from cogview.data.images import BadImage, decode, to_rgb
from cogview.describing import AnyPicture, Caption, at_least_one, checked_seed, listed, spoken
from cogview.errors import CogViewError
from cogview.family import Family, StyleDefaults
from cogview.generation import editing
from cogview.generation.captioning import Captioner, text_rows
from cogview.generation.editing import Crop, Frame
from cogview.generation.engine import Engine, Ids, Progress
from cogview.generation.infilling import Hole, Order, fill
from cogview.generation.languages import language
from cogview.generation.linear import Precision, computing, layers_dtype
from cogview.generation.progress import Parts
from cogview.generation.roles import BASE
from cogview.generation.settings import Sampling
from cogview.generation.step import pack
from cogview.generation.text_to_image import paint
from cogview.picture_files import open_picture
from cogview.pipeline import CogView, Picture
from cogview.tokenizers.clusters import read_labels
from cogview.transformer.attention import MaskRegions
from cogview.transformer.config import ThreeRegionConfig

AnyMask = Image.Image | ArrayLike | str | Path
Box = tuple[int, int, int, int] | str


class CogView2(CogView):
    """A family whose base model is a CogLM. Made by :meth:`from_pretrained`.

    Attributes:
        coglm: the sequences of the base model.
    """

    def __init__(
        self,
        family: Family,
        device: str | torch.device,
        precision: Precision,
        deterministic: bool,
        lora: tuple[Path, float] | None = None,
        sparse: ThreeRegionConfig | None = None,
    ) -> None:
        form = family.role(BASE).sequences
        if not isinstance(form, CogLMFormat):
            raise CogViewError(
                f"{family.config.name} cannot edit: its {BASE} model only draws ({form.kind}); take one "
                f"whose {BASE} is a CogLM, such as pictogram-2"
            )
        if lora is not None:
            raise CogViewError(f"the model {family.config.name} takes no adapters yet; leave the adapter out")
        if sparse is not None:
            raise CogViewError(
                f"the model {family.config.name} is a CogLM, which draws without sparse attention; "
                "leave it out"
            )
        self.family, self.precision, self.coglm = family, precision, form
        self.adapter: dict[str, Any] = {}
        self.form = cast(Any, form)
        self.text, self.images = family.text_tokenizer(), family.image_tokenizer().to(device)
        self._check_sizes()
        self.transformer = family.transformer(BASE, device, layers_dtype(precision))
        rows = slice(0, family.config.vocabulary.image_codes)
        self.engine = Engine(
            pack(self.transformer, rows, precision), deterministic, clusters=self._clusters()
        )

    def _clusters(self) -> torch.Tensor | None:
        """The clusters of the image codes, where the family has any."""
        name = getattr(self.family.config, "clusters", None)
        if name is None:
            return None
        codes = self.family.config.vocabulary.image_codes
        return read_labels(self.family.directory / name, codes).to(self.images_device)

    @property
    def images_device(self) -> torch.device:
        """Where pictures are computed."""
        return next(self.images.parameters()).device

    @property
    def size(self) -> int:
        """Pixels of the square that the model sees."""
        return self.images.image_size * self.coglm.grid[0] // self.images.grid()[0]

    def _ways(self) -> dict[str, Any]:
        return {"precision": self.precision, "deterministic": self.engine.deterministic}

    def draw(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        style: str | None = None,
        settings: Mapping[str, float | None] | None = None,
        *arguments: Any,
        **more: Any,
    ) -> Iterator[Picture]:
        """As :meth:`CogView.draw`, with the style's own settings where it has any."""
        return super().draw(prompt, n, seed, style, self._settings(settings, style), *arguments, **more)

    # ------------------------------------------------------------------------------------------ editing

    def edit(  # type: ignore[override]
        self,
        picture: AnyPicture,
        prompt: str,
        *,
        mask: AnyMask | None = None,
        boxes: Box | Sequence[Box] = (),
        n: int = 1,
        seed: int | None = None,
        style: str | None = None,
        order: Order = "together",
        crop: Crop = "auto",
        feather: int = editing.FEATHER,
        settings: Mapping[str, float | None] | None = None,
        first_stage_only: bool = False,
        best_of: int = 1,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> list[Picture]:
        """Draw what is masked anew, by a sentence; pixels outside the mask stay as they are, bit for bit.

        Args:
            picture: a file, a Pillow image, or what ``generate`` gave; of any size.
            prompt: what the whole picture shall show.
            mask: white (True) where the picture is drawn anew; of the picture's size.
            boxes: rectangles (left, top, right, bottom) in pixels, or as text, also in percent
                ("25%,0,75%,50%"); with a mask, both count.
            n: how many results.
            order: all masked regions at once, or ``one_by_one`` with all else in view; slower.
            crop: what the model sees: ``auto`` a part at the model's size around the mask where the picture
                is larger, ``tight`` an enlarged one for small regions too, ``whole`` the picture.
            feather: pixels inside the mask over which the new sets in.
            settings: as of ``draw``; default: the family's for editing, then as there.
            first_stage_only: for a family that enlarges what it draws: do not; what is pasted is less sharp.
            best_of: draw so many for each result and keep the n that the prompt describes best.

        Raises:
            CogViewError: a mask of another size, empty or full, a box outside, a prompt too long.
        """
        at_least_one(n=n, best_of=best_of, batch_size=batch_size)
        original = _opened(picture)
        hole = self._mask(mask, boxes, original.size)
        text = self._ids(prompt, style)
        sampling = self.sampling(self._settings(settings, style, self.family.config.editing))
        jobs = self._streams(n * best_of, seed)
        area = editing.frame(hole, crop, self.size)
        whole = area.shape == hole.shape
        codes = self.codes_of(picture) if whole else self._codes(area.cut(_over_white(original)))
        holes = [Hole(text, codes, *job) for job in jobs]
        grid = area.grid_mask(self.coglm.grid)
        steps = () if first_stage_only else self._steps(area.shape)
        parts = Parts(progress, len(jobs) * (self.coglm.codes + len(steps) * self._large_codes))
        report = parts.part(len(jobs) * self.coglm.codes)
        filled = fill(
            self.engine, self.coglm, holes, grid, sampling, order, batch_size=batch_size, progress=report
        )
        facts = {"task": "edit", "order": order, "crop": crop, "feather": feather, "box": list(area.box)}
        facts |= {"super_resolution": " and ".join(steps)} if steps else {}
        pieces, made = self.encode(self.caption_for(prompt, style)), []
        for found, job in zip(filled, jobs, strict=True):
            draw = self._large_part if steps else self._small_part
            image = editing.paste(original, draw(original, found, area, pieces, job, parts), area, feather)
            if not whole:
                found = self._codes(_over_white(image))  # of the whole, as of every picture
            made.append(self._picture(image, found, prompt, style, job, sampling, facts))
        return made if best_of == 1 else self.best_of(made, n)

    def vary(  # type: ignore[override]
        self,
        picture: AnyPicture,
        prompt: str = "",
        *,
        share: float = 0.5,
        n: int = 1,
        seed: int | None = None,
        style: str | None = None,
        settings: Mapping[str, float | None] | None = None,
        first_stage_only: bool = False,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> list[Picture]:
        """Variations: patches at random, another ``share`` of the picture each time, are drawn anew.

        The results are wholly the model's: as large as the original, but squares of the model's sharpness
        (of its second stage where there is one, the original is larger than the first, and unless
        ``first_stage_only``). Each has patches of its own and is drawn by itself; ``batch_size`` is the most
        to enlarge at a time.
        """
        if not 0 < share <= 1:
            raise CogViewError(f"share is {share}; it lies between 0 and 1")
        at_least_one(n=n, batch_size=batch_size)
        original = _opened(picture)
        text, sampling = self._ids(prompt, style, empty=True), self.sampling_for(settings, style)
        codes, made = self.codes_of(picture), list[Picture]()
        patch = max(1, min(PATCH, min(self.coglm.grid) // 3))
        steps = () if first_stage_only else self._steps((original.height, original.width))
        parts = Parts(progress, n * (self.coglm.codes + len(steps) * self._large_codes))
        for job in self._streams(n, seed):
            mask = sample_mask(self.coglm.grid, np.random.default_rng(job), share, patch)
            hole, report = Hole(text, codes, *job), parts.part(self.coglm.codes)
            [found] = fill(self.engine, self.coglm, [hole], mask, sampling, progress=report)
            image, facts = paint(self.images, found, self.coglm.grid), {"task": "vary", "share": share}
            made.append(self._picture(image, found, prompt, style, job, sampling, facts))
        larger = self._all_enlarged(made, batch_size, parts) if steps else made
        return [
            replace(
                large, image=large.image.resize(original.size, Image.Resampling.BICUBIC), codes=small.codes
            )
            for large, small in zip(larger, made, strict=True)
        ]

    @property
    def _large_codes(self) -> int:
        """Codes of what a family that enlarges makes of a picture."""
        return 0

    def _all_enlarged(self, pictures: list[Picture], batch_size: int | None, parts: Parts) -> list[Picture]:
        """Pictures by the models that enlarge."""
        raise NotImplementedError

    def _mask(self, mask: AnyMask | None, boxes: Box | Sequence[Box], size: tuple[int, int]) -> editing.Mask:
        """All that is masked, checked."""
        given = _boxes(boxes)
        if mask is None and not given:
            raise CogViewError("nothing is masked; give a mask or a box")
        read = [
            editing.read_box(box, size) if isinstance(box, str) else editing.whole_box(box) for box in given
        ]
        whole = editing.mask_of_boxes(read, size)
        if mask is None:
            return editing.checked(whole, size, where="the box")
        where = str(mask) if isinstance(mask, str | Path) else "the mask"
        painted = _mask_pixels(mask)
        return editing.checked(editing.checked(painted, size, where=where) | whole, size)

    def _steps(self, shape: tuple[int, int]) -> tuple[str, ...]:
        """What enlarges a part (height, width) of a picture after it was drawn; nothing here."""
        return ()

    def _small_part(
        self,
        original: Image.Image,
        codes: Ids,
        area: Frame,
        pieces: Sequence[int],
        stream: tuple[int, int],
        parts: Parts,
    ) -> Image.Image:
        """The part of the picture that was drawn, at the part's size, from its codes."""
        height, width = area.shape
        return paint(self.images, codes, self.coglm.grid).resize((width, height), Image.Resampling.BICUBIC)

    def _large_part(
        self,
        original: Image.Image,
        codes: Ids,
        area: Frame,
        pieces: Sequence[int],
        stream: tuple[int, int],
        parts: Parts,
    ) -> Image.Image:
        """The same by the models that enlarge."""
        raise NotImplementedError

    def _codes(self, image: Image.Image, size: int = 0) -> Ids:
        """Codes (rows * columns,) of a picture, made a square of ``size`` pixels (0: of the model's)."""
        side = size or self.size
        square = image.resize((side, side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            codes: Ids = self.images.encode(pixels.to(self.images_device))[0].cpu().numpy()
        return codes

    # ------------------------------------------------------------------------------------------ saying

    @cached_property
    def captioner(self) -> Captioner:
        """The same model, saying things in English."""
        return self.captioner_in("en")

    def captioner_in(self, language: str) -> Captioner:
        """The same model, saying things in a language; CogViewError for one it was not taught."""
        self.coglm.separator(language)
        return replace(self._speaker, form=cast(Any, Captions(self.coglm, language)))

    @cached_property
    def _speaker(self) -> Captioner:
        rows = text_rows(self.coglm.vocabulary, self.transformer.config.vocab_size)
        engine = Engine(pack(self.transformer, rows, self.precision), self.engine.deterministic)
        return Captioner(engine, cast(Any, Captions(self.coglm, next(iter(self.coglm.languages)))), self.text)

    def caption(self, *arguments: Any, language: str | None = None, **more: Any) -> list[list[Caption]]:
        """Describe pictures in a language, English by default; see :meth:`CogView.caption`."""
        spoken = language or "en"
        return super(CogView2, self._speaking(spoken)).caption(*arguments, language=spoken, **more)

    def best_of(self, pictures: Sequence[Picture], keep: int) -> list[Picture]:
        self._check_choice(pictures, keep)
        return super(CogView2, self._speaking(language(pictures[0].caption))).best_of(pictures, keep)

    def _speaking(self, language: str) -> CogView2:
        """The same models, captions in a language."""
        speaking = copy(self)
        speaking.captioner = self.captioner_in(language)
        speaking.__dict__.pop("scorer", None)
        return speaking

    def score(
        self,
        pictures: AnyPicture | Sequence[AnyPicture],
        texts: str | Sequence[str],
        *,
        released: bool = False,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float64]:
        """How well each text describes each picture (pictures, texts): the caption loss, lower is better.

        [BOE] or [BOC] stands before a text by its language. ``released``: the mean log-probability among all
        tokens, higher is better, after [BOC] whatever the language.
        """
        words = spoken(texts, "text to score")
        at_least_one(batch_size=batch_size)
        if released:
            return self._released_scores(listed(pictures), words)
        columns = []
        for text in words:
            score = super(CogView2, self._speaking(language(text))).score
            columns.append(score(pictures, text, batch_size=batch_size, progress=progress))
        return np.concatenate(columns, 1)

    @torch.inference_mode()
    def _released_scores(self, pictures: Sequence[AnyPicture], texts: Sequence[str]) -> NDArray[np.float64]:
        nothing, found = np.zeros(self.coglm.codes, dtype=np.bool_), []
        for picture in pictures:
            codes = self.codes_of(picture)
            for text in texts:
                batch = collate([self.coglm.captioning(self.scored_pieces(text), codes, nothing, "zh")])
                batch = {name: values.to(self.images_device) for name, values in batch.items()}
                regions = MaskRegions(batch["order"], batch["streams"])
                with computing(self.precision, self.images_device):
                    hidden = self.transformer(batch["inputs"], batch["positions"], regions)
                counted = batch["weights"] > 0
                chance = self.transformer.logits(hidden[counted]).float().log_softmax(-1)
                found.append(float(chance.gather(1, batch["targets"][counted][:, None]).mean()))
        return np.array(found).reshape(len(pictures), len(texts))

    def codes_of(self, picture: AnyPicture) -> Ids:
        """A picture's codes (rows * columns,); one that was drawn has them already."""
        if isinstance(picture, Picture) and len(picture.codes) == self.coglm.codes:
            return picture.codes
        return self._codes(_over_white(_opened(picture)))

    # ------------------------------------------------------------------------------------------ details

    def _ids(self, prompt: str, style: str | None, empty: bool = False) -> Ids:
        """Ids of a prompt; CogViewError for an empty one, where that makes no sense, and one too long."""
        [prompt] = spoken(prompt)
        if empty and not prompt.strip() and style is None:
            return self.coglm.text_ids(())
        return self.coglm.text_ids(self.encode(self.caption_for(prompt, style)))

    def sampling_for(self, settings: Mapping[str, float | None] | None, style: str | None = None) -> Sampling:
        return self.sampling(self._settings(settings, style))

    def _settings(
        self,
        settings: Mapping[str, float | None] | None,
        style: str | None,
        task: StyleDefaults | None = None,
    ) -> dict[str, float | None]:
        """Those given over the task's over those that suit the style; the family's come under all."""
        suited = self.family.config.style_defaults
        phrases = None if style is None else self.style(style)
        names = [name for name, known in self.styles.items() if known is phrases and name in suited]
        chosen = suited[names[0]].model_dump(exclude_none=True) if names else {}
        usual = {} if task is None else task.model_dump(exclude_none=True)
        given = {name: value for name, value in (settings or {}).items() if value is not None}
        return {**chosen, **usual, **given}

    def _streams(self, n: int, seed: int | None) -> list[tuple[int, int]]:
        seed = checked_seed(seed)
        return [(seed, index) for index in range(n)]

    def _picture(
        self,
        image: Image.Image,
        codes: Ids,
        prompt: str,
        style: str | None,
        stream: tuple[int, int],
        sampling: Sampling,
        facts: Mapping[str, Any],
    ) -> Picture:
        return Picture(
            image=image,
            codes=codes,
            prompt=prompt,
            caption=self.caption_for(prompt, style) if prompt.strip() else "",
            seed=stream[0],
            index=stream[1],
            settings={**sampling.model_dump(), "style": style, **self._ways(), **facts},
            model=self.family.config.name,
            model_hash=self.model_hash,
        )


def _opened(picture: AnyPicture) -> Image.Image:
    """The picture upright: RGBA where it is transparent anywhere, else RGB; CogViewError for no picture."""
    if isinstance(picture, Picture):
        return picture.image
    if isinstance(picture, Image.Image):
        image = picture
    else:
        try:
            rgb = decode(Path(picture)).image  # refuses what is dangerous or broken
        except BadImage as error:
            raise CogViewError(f"{picture}: {error}") from error
        with open_picture(picture) as file:
            if not file.has_transparency_data:
                return rgb
            image = ImageOps.exif_transpose(file)
    return image.convert("RGBA") if image.has_transparency_data else to_rgb(image)[0]


def _over_white(image: Image.Image) -> Image.Image:
    return to_rgb(image)[0]


def _mask_pixels(mask: AnyMask) -> editing.Mask:
    """bool (height, width) of a mask in any form."""
    if isinstance(mask, str | Path):
        mask = _opened(mask)
    if isinstance(mask, Image.Image):
        return editing.mask_of_image(mask)
    return np.asarray(mask, dtype=np.bool_)


def _boxes(given: Box | Sequence[Box]) -> list[Box]:
    """One box or several as a list."""
    if isinstance(given, str):
        return [given]
    items = list(given)
    one = len(items) == 4 and not any(isinstance(item, str | Sequence) for item in items)
    return [cast(Box, tuple(items))] if one else cast(list[Box], items)


__all__ = ["CogView2"]
