"""Text-to-image generation: encode a caption, generate image codes after it, decode the codes to an image.

The sequence is [ROI1] text [BASE] [BOI1] codes in CogView (section 2.1), text [BOI] codes in CogView2
(section 3.1); a style is part of the caption. Requests of several calls can be generated in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogview.checkpoints.components import Components
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.pipelines.base import (
    MAX_IMAGES,
    GeneratedImage,
    caption_for,
    check_count,
    check_first,
    check_positive,
    checked_seed,
    encode_caption,
    text_list,
)
from cogview.sequences.protocols import ImageFormat
from cogview.tokenizers.loading import decode_image
from cogview.types import ProgressCallback, SamplingParams, StepCallback

if TYPE_CHECKING:
    from cogview.generation.fairness import FairnessTable


@dataclass(frozen=True)
class GenerationRequest:
    """One image to generate.

    prompt: as passed by the caller; caption: the text that the model reads; seed, index: the random stream;
    facts: further provenance; negative: the caption that guidance moves away from.
    """

    prompt: str
    caption: str
    seed: int
    index: int
    facts: dict[str, Any] = field(default_factory=dict)
    negative: str = ""


class TextToImage:
    """The base model of a family, loaded at first use.

    Attributes:
        format: its sequence format.
    """

    def __init__(self, components: Components, format: ImageFormat, load: Callable[[], Engine]) -> None:
        self.components, self.format, self._load = components, format, load

    @cached_property
    def engine(self) -> Engine:
        """The engine of the base model."""
        return self._load()

    def requests(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        *,
        style: str | None = None,
        first: int = 0,
        best_of: int = 1,
        fairness: str | Path | FairnessTable | None = None,
        negative_prompt: str | None = None,
    ) -> list[GenerationRequest]:
        """``n * best_of`` requests for each prompt; raises CogViewError for a wrong argument or a caption
        that is too long."""
        prompts = text_list(prompt)
        check_positive(n=n, best_of=best_of)
        check_first(first, n * best_of)
        check_count("images", len(prompts) * n * best_of, MAX_IMAGES)
        seed, config = checked_seed(seed), self.components.bundle.config
        negative = "" if negative_prompt is None else text_list(negative_prompt, "negative_prompt")[0].strip()
        shared = {} if negative_prompt is None else {"negative_prompt": negative_prompt}
        replace_words = _replacer(fairness, seed, best_of)
        requests = []
        for text in prompts:
            for index in range(first, first + n * best_of):
                words, facts = replace_words(text, index)
                caption = caption_for(config, words, style)
                requests.append(
                    GenerationRequest(
                        text, caption, seed, index, {"style": style, **facts, **shared}, negative
                    )
                )
        for caption in dict.fromkeys(text for one in requests for text in (one.caption, one.negative)):
            self.encode(caption)
        return requests

    def encode(self, caption: str) -> list[int]:
        """A caption's text tokens; raises CogViewError if there are more than the model reads."""
        return encode_caption(self.components, caption, self.format.text_limit)

    def truncated(self, prompt: str, style: str | None = None, limit: int | None = None) -> str:
        """The prompt truncated so that with its style it has at most ``limit`` text tokens (default: the
        model's limit)."""
        tokenizer, config = self.components.text_tokenizer, self.components.bundle.config
        limit = self.format.text_limit if limit is None else limit
        tokens = tokenizer.encode(prompt)
        while len(tokens) > 1:
            excess = len(tokenizer.encode(caption_for(config, prompt, style))) - limit
            if excess <= 0:
                break
            tokens = tokens[: max(1, len(tokens) - excess)]
            prompt = tokenizer.decode(tokens)
        return prompt

    def run(
        self,
        requests: Sequence[GenerationRequest],
        params: SamplingParams,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        step_callback: StepCallback | None = None,
    ) -> Iterator[GeneratedImage]:
        """Generate the images of the requests, in order; each is yielded as soon as it is finished.

        ``step_callback`` is called after each token with the numbers of the requests in the batch and their
        codes so far (b, codes).
        """
        check_positive(batch_size=batch_size)
        prompts = {
            caption: self.format.image_prompt(self.encode(caption))
            for one in requests
            for caption in ((one.caption, one.negative) if params.guidance_scale != 1 else (one.caption,))
        }
        sequences = [
            SequenceRequest(prompts[one.caption], one.seed, one.index, prompts.get(one.negative))
            for one in requests
        ]
        components = self.components
        facts = {**params.model_dump(), "style": None, **components.facts}
        results = self.engine.generate(sequences, params, batch_size, progress, step_callback=step_callback)
        for number, codes in results:
            request = requests[number]
            yield GeneratedImage(
                image=decode_image(components.image_tokenizer, codes, self.format.grid),
                codes=codes,
                prompt=request.prompt,
                caption=request.caption,
                seed=request.seed,
                index=request.index,
                settings={**facts, **request.facts},
                model=components.bundle.config.name,
                model_hash=components.bundle.hash,
            )


def _replacer(
    table: str | Path | FairnessTable | None, seed: int, best_of: int
) -> Callable[[str, int], tuple[str, dict[str, Any]]]:
    """(prompt, index) -> the text after word replacing (CogView, appendix D), and its provenance entry."""
    if table is None:
        return lambda prompt, index: (prompt, {})
    from cogview.generation.fairness import wording

    words = wording(table, seed, best_of)

    def replace(prompt: str, index: int) -> tuple[str, dict[str, Any]]:
        replacement = words.replace(prompt, index)
        return replacement.text, words.facts(replacement)

    return replace
