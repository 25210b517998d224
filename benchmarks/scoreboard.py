"""Ours against what else one would run on this machine, in turns in one run: the first table of README.md.

    make bench                                  # installs the peers, ten minutes
    python benchmarks/scoreboard.py --peers peers
    python benchmarks/scoreboard.py --peers peers --rehearse

All generate the image tokens of the default model (as many, of as many codes, with its layers, width and
heads), sampled with top-k 200, after a caption; pixels are left out. Ours is what `cogview generate` runs,
with the shipped weights; the others have random ones, on which their time does not depend.

- released: the released algorithm (`decode_released.py`).
- dalle-pytorch: `generate_images` with its cache, which it uses with guidance only; both are guided then.
- transformers: GPT-2's architecture, `generate` with a static cache; and with assisted decoding by prompt
  lookup, greedy, where random weights repeat themselves, so that its guesses are right more often than any
  image's would be.
- ctranslate2: the same decoder in a CPU engine, in fp32 and int8. (llama.cpp has no package for Python that
  comes built.)

A ratio is the median over the turns of the other's time by ours, in the same turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import decode_released
import jacobi
import torch
from decode_step import machine
from peer_training import codes_only, load_dalle

import cogview
from cogview import SamplingParams
from cogview.pipelines.model import Pipeline
from cogview.transformer.model import Transformer

HERE = Path(__file__).parent
PROMPT, TOP_K, GUIDANCE = 32, 200, 2.0
Way = Callable[[int], object]  # images -> generates their tokens


def ours(model: Pipeline, guidance: float) -> Way:
    """The engine with the family's own settings but for these."""
    engine, config = model.text_to_image.engine, model.bundle.config
    params = SamplingParams(top_k=TOP_K, guidance_scale=guidance).over(config.sampling("generate"))

    def run(images: int) -> object:
        return list(engine.generate(jacobi.requests_of(model, images, guidance != 1), params, images))

    return run


def released(model: Pipeline) -> Way:
    """The released loop over a model of the same sizes, token by token."""
    config = model.bundle.check("base").model_copy(update={"norm_relax": "tensor"})
    codes = model.text_to_image.format.codes
    decode_released.CONFIG = config
    decode_released.CODES = slice(0, model.bundle.config.vocabulary.image_codes)
    loop = decode_released.ReleasedLoop(Transformer(config).eval())

    @torch.inference_mode()
    def run(images: int) -> object:
        ids, memory = torch.zeros(images, PROMPT, dtype=torch.int64), list[torch.Tensor]()
        positions = torch.arange(PROMPT).expand(images, -1)
        for step in range(codes):
            logits, memory = loop.read(ids, positions, memory)
            ids = loop.sample(logits)
            positions = torch.full((images, 1), PROMPT + step)
        return ids

    return run


def dalle(model: Pipeline) -> Way:
    """DALLE-pytorch's own loop with its cache; ImportError where it is not there."""
    peer = load_dalle()
    vocabulary, config = model.bundle.config.vocabulary, model.bundle.check("base")
    grid = model.text_to_image.format.grid
    sizes = codes_only(peer, vocabulary.image_codes, grid[0])
    loop = peer.DALLE(
        dim=config.hidden, vae=sizes, num_text_tokens=vocabulary.text_pieces, text_seq_len=PROMPT,
        depth=config.layers, heads=config.heads, dim_head=max(16, config.hidden // config.heads),
        attn_types=("full",),
    ).eval()  # fmt: skip
    logits = vocabulary.text_pieces + PROMPT + vocabulary.image_codes
    share = max(0.0, 1 - TOP_K / logits)  # that its top-k leaves out

    @torch.inference_mode()
    def run(images: int) -> object:
        texts = torch.ones(images, PROMPT, dtype=torch.int64)
        return loop.generate_images(texts, use_cache=True, filter_thres=share, cond_scale=GUIDANCE)

    return run


def gpt2(model: Pipeline) -> Any:
    """A decoder of the same sizes under transformers, over image codes alone; ImportError without it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config, codes = model.bundle.check("base"), model.text_to_image.format.codes
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=model.bundle.config.vocabulary.image_codes, n_positions=PROMPT + codes + 16,
            n_embd=config.hidden, n_layer=config.layers, n_head=config.heads, bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip


def transformers(model: Pipeline, **how: Any) -> Way:
    """``generate`` of transformers."""
    peer, codes = gpt2(model), model.text_to_image.format.codes
    lengths = {"max_new_tokens": codes, "min_new_tokens": codes, "pad_token_id": 0}

    @torch.inference_mode()
    def run(images: int) -> object:
        ids = torch.arange(images * PROMPT).view(images, PROMPT) % peer.config.vocab_size
        return peer.generate(ids, attention_mask=torch.ones_like(ids), **lengths, **how)

    return run


def ctranslate2(model: Pipeline, compute_type: str, threads: int, work: Path) -> Way:
    """The same decoder in CTranslate2; ImportError without it."""
    import ctranslate2 as engine
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from tokenizers import Tokenizer

    peer, codes, folder = gpt2(model), model.text_to_image.format.codes, work / "ct2"
    if not folder.exists():
        words = {f"t{number}": number for number in range(peer.config.vocab_size)}
        tokenizer = Tokenizer(WordLevel(words, unk_token="t0"))
        named = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="t0", bos_token="t0", eos_token="t0"
        )
        peer.save_pretrained(work / "hf")
        named.save_pretrained(work / "hf")
        engine.converters.TransformersConverter(str(work / "hf")).convert(str(folder))
    generator = engine.Generator(str(folder), compute_type=compute_type, intra_threads=threads)
    prompt, top_k = [f"t{number + 1}" for number in range(PROMPT)], min(TOP_K, peer.config.vocab_size)

    def run(images: int) -> object:
        return generator.generate_batch(
            [prompt] * images, max_length=codes, min_length=codes, sampling_topk=top_k, max_batch_size=images,
            include_prompt_in_result=False,
        )  # fmt: skip

    return run


def peers(model: Pipeline, threads: int, work: Path) -> Iterator[tuple[str, Callable[[], Way], float, bool]]:
    """Name, what makes it, the guidance that both have, and whether it can do several images at a time."""
    static = {"do_sample": True, "top_k": TOP_K, "cache_implementation": "static"}
    guesses = {"do_sample": False, "prompt_lookup_num_tokens": 10}
    yield "released loop", lambda: released(model), 1.0, True
    yield "transformers, static cache", lambda: transformers(model, **static), 1.0, True
    yield "transformers, assisted", lambda: transformers(model, **guesses), 1.0, False
    for kind in ("float32", "int8"):
        yield f"ctranslate2, {kind}", lambda kind=kind: ctranslate2(model, kind, threads, work), 1.0, True
    # last: it stands in for packages that transformers would look for
    yield "dalle-pytorch, cache", lambda: dalle(model), GUIDANCE, True


def clocked(run: Way, images: int, clock: Callable[[], float]) -> float:
    """Milliseconds an image."""
    start = clock()
    run(images)
    return 1e3 * (clock() - start) / images


def compare(
    mine: Way, other: Way, images: int, turns: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Medians of milliseconds an image, and of the ratios of a turn, the two in turns."""
    for way in (mine, other):
        way(images)  # the first is slower
    times = [(clocked(mine, images, clock), clocked(other, images, clock)) for _ in range(turns)]
    one, two = (statistics.median(found) for found in zip(*times, strict=True))
    ratios = [b / a for a, b in times]
    spread = {"least": min(ratios), "most": max(ratios)}
    return {"images": images, "ours_ms": one, "other_ms": two, "ratio": statistics.median(ratios), **spread}


def table(rows: list[dict[str, Any]]) -> str:
    """The first table of README.md."""
    lines = [
        "| against | images at a time | ours, an image | the other | **times as fast** |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if "ratio" in row:
            times = f"{row['ours_ms']:.0f} ms | {row['other_ms']:.0f} ms"
            between = f"{row['least']:.1f} to {row['most']:.1f}"
            lines.append(
                f"| {row['against']} | {row['images']} | {times} | **{row['ratio']:.1f}** ({between}) |"
            )
        else:
            lines.append(f"| {row['against']} | | | | {row['missing']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="pictogram")
    parser.add_argument("--peers", type=Path, help="the folder that pip put the peers into")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rehearse", action="store_true", help="a tiny model, one turn: does all of it run?")
    parser.add_argument("--out", type=Path, help="JSON; the table is printed")
    given = parser.parse_args()
    if given.peers:
        sys.path.append(str(given.peers))
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        work, name = Path(folder), given.model
        if given.rehearse:
            sys.path.append(str(HERE.parent))
            from tests.generation import tiny

            name, given.turns, given.batches = str(tiny.write(work)), 1, [1, 2]
            jacobi.PROMPTS = ("a red circle", "蓝色的方块")
        model, rows = cogview.from_pretrained(name), list[dict[str, Any]]()
        for against, make, guidance, batched in peers(model, given.threads, work):
            try:
                other = make()
            except ImportError as error:
                rows.append({"against": against, "missing": f"not installed ({error.name})"})
                continue
            mine = ours(model, guidance)
            for images in given.batches if batched else given.batches[:1]:
                found = compare(mine, other, images, given.turns)
                rows.append({"against": against, "guidance": guidance, **found})
                print(json.dumps(rows[-1]), flush=True)
        codes, digest = model.text_to_image.format.codes, model.model_hash
    result = {
        "command": f"python benchmarks/scoreboard.py --model {given.model} --turns {given.turns}",
        "model": given.model, "hash": digest, "codes": codes, "machine": machine(given.threads), "rows": rows,
    }  # fmt: skip
    print(table(rows))
    if given.out and not given.rehearse:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
