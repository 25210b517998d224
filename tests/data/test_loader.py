"""The loaders: exactly once, resumable anywhere, the stated mixture."""

import json
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.data.loader import Mixture, TokenLoader, thinned
from cogview.data.samples import KINDS
from cogview.data.shards import TokenCaption, TokenItem, TokenShards
from cogview.data.weighting import bucketed, draws
from cogview.errors import CogViewError
from cogview.training.prefetch import Prefetch

from .conftest import write_data_set


def read(loader: TokenLoader, batches: int | None = None) -> list[tuple[list[int], list[list[int]]]]:
    """(items, texts) of the next batches."""
    return [(batch["items"], batch["texts"]) for batch, _ in islice(iter(loader), batches)]


def test_an_epoch_is_every_item_once(shards: TokenShards, items: list[TokenItem]) -> None:
    batches = [batch for batch, _ in TokenLoader(shards, 8, epochs=1)]
    drawn = Counter(item for batch in batches for item in batch["items"])
    assert drawn == Counter(i for i, item in enumerate(items) if item.split == "train")
    assert all(len(batch["items"]) == 8 for batch in batches[:-1])
    for batch in batches:
        expected = np.stack([items[item].codes for item in batch["items"]])
        np.testing.assert_array_equal(batch["codes"].numpy(), expected)
        for item, text in zip(batch["items"], batch["texts"], strict=True):
            assert tuple(text) in {caption.pieces for caption in items[item].captions}


@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 40), batch=st.integers(1, 19), window=st.integers(1, 5), seed=st.integers(0, 99))
def test_stopping_anywhere_changes_nothing(
    shards: TokenShards, stop: int, batch: int, window: int, seed: int
) -> None:
    def loader(state: dict[str, object] | None = None) -> TokenLoader:
        mixture = Mixture(weights={"a": 1.5}, keyword=0.3, empty=0.1)
        return TokenLoader(shards, batch, seed=seed, window=window, mixture=mixture, state=state)

    whole = read(loader(), stop + 12)
    first = loader()
    state = first.state
    if stop:
        state = [after for _, after in islice(iter(first), stop)][-1]
    state = json.loads(json.dumps(state))
    assert read(loader(state), 12) == whole[stop:]
    assert json.loads(json.dumps(first.state)) == state


@settings(max_examples=25, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=4),
    batch=st.integers(1, 12),
)
def test_no_sample_is_lost_or_repeated_whatever_the_ranks_and_what_was_read_ahead(
    shards: TokenShards, runs: list[tuple[int, int, int]], batch: int
) -> None:
    """Runs of (ranks, batches read ahead, batches used), each from the state the one before it left."""
    mixture, found = Mixture(weights={"b": 0.5}), list[list[int]]()
    state: dict[str, object] | None = None
    for world, ahead, used in runs:
        loaders = [
            TokenLoader(shards, batch, mixture=mixture, rank=rank, world=world, state=state)
            for rank in range(world)
        ]
        streams = [Prefetch(iter(loader), ahead) for loader in loaders]
        for _ in range(used):
            read_now = [next(stream) for stream in streams]
            rows = [part["items"] for part, _ in read_now]
            count = sum(map(len, rows))
            found.append([rows[place % world][place // world] for place in range(count)])
            (state,) = {json.dumps(after): after for _, after in read_now}.values()  # one for all ranks
        for stream in streams:
            stream.close()
    assert found == [items for items, _ in read(TokenLoader(shards, batch, mixture=mixture), len(found))]


def test_batches_of_like_length_leave_nothing_to_pack() -> None:
    """Captions of 4 to 60 pieces beside 144 codes: what packing sequences into rows could save at most."""
    rng = np.random.default_rng(0)
    texts = np.clip(rng.lognormal(2.6, 0.6, 20_000).astype(np.int64), 4, 60)
    lengths = texts + 148

    def padding(window: int) -> float:
        batches = bucketed(texts, 32, window, np.random.default_rng(1))
        padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
        return 1 - float(lengths.sum()) / padded

    assert padding(64) < 0.005 < 0.1 < padding(1)


def test_epochs_and_seeds_differ(shards: TokenShards) -> None:
    loader = TokenLoader(shards, 93)
    (one, _), (two, _) = read(loader, 2)
    assert one != two
    assert sorted(one) == sorted(two)
    assert read(TokenLoader(shards, 93, seed=1), 1)[0][0] != one


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=30),
    seed=st.integers(0, 2**31),
    epochs=st.integers(1, 8),
)
def test_draws_keep_to_the_weights_at_every_epoch(weights: list[float], seed: int, epochs: int) -> None:
    total = np.zeros(len(weights))
    for epoch in range(epochs):
        total += np.bincount(draws(np.array(weights), seed, epoch), minlength=len(weights))
        assert np.all(np.abs(total - (epoch + 1) * np.array(weights)) < 1 + 1e-6)


def test_a_source_of_weight_zero_is_not_drawn(shards: TokenShards, items: list[TokenItem]) -> None:
    loader = TokenLoader(shards, 16, mixture=Mixture(weights={"a": 0, "b": 2}), epochs=1)
    drawn = Counter(item for batch, _ in read(loader) for item in batch)
    assert {items[item].source for item in drawn} == {"b"}
    assert set(drawn.values()) == {2}


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), max_size=90),
    batch=st.integers(1, 9),
    window=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_buckets_hold_every_position_once_and_like_lengths(
    lengths: list[int], batch: int, window: int, seed: int
) -> None:
    array = np.array(lengths, dtype=np.int64)
    batches = bucketed(array, batch, window, np.random.default_rng(seed))
    assert sorted(np.concatenate([np.zeros(0, int), *batches]).tolist()) == list(range(len(lengths)))
    assert [len(part) for part in batches[:-1]] == [batch] * max(0, len(batches) - 1)
    for first in range(0, len(lengths) // batch, window):  # within a window the length ranges do not overlap
        ranges = sorted((array[part].min(), array[part].max()) for part in batches[first : first + window])
        full = len(lengths) // batch * batch
        if (first + window) * batch <= full:
            assert all(a[1] <= b[0] for a, b in pairwise(ranges))


def frequencies(shards: TokenShards, items: list[TokenItem], mixture: Mixture, epochs: int) -> Counter[str]:
    """How often each (language, kind) was drawn for items that have captions of every kind."""
    counts: Counter[str] = Counter()
    by_pieces = [
        {caption.pieces: f"{caption.language} {caption.kind}" for caption in item.captions} for item in items
    ]
    for batch, _ in TokenLoader(shards, 50, mixture=mixture, epochs=epochs):
        for item, text in zip(batch["items"], batch["texts"], strict=True):
            counts[by_pieces[item][tuple(text)] if text else "empty"] += 1
    return counts


def test_captions_are_drawn_with_the_stated_probabilities(tmp_path_factory: pytest.TempPathFactory) -> None:
    tags = [(language, kind) for language in ("en", "zh") for kind in KINDS]
    items = [
        TokenItem(
            str(number),
            np.zeros(6, np.int64),
            tuple(TokenCaption((number, place), *tag) for place, tag in enumerate(tags)),
            ("a", "b")[number % 2],
            "train",
        )
        for number in range(500)
    ]
    shards = write_data_set(tmp_path_factory.mktemp("tags"), items, 500)
    mixture = Mixture(
        languages={"en": 1, "zh": 3}, style={"a": 0.2, "b": 0.6}, keyword={"a": 0.2}, reworded={"b": 0.3},
        empty=0.1,
    )  # fmt: skip
    counts = frequencies(shards, items, mixture, 20)
    total = sum(counts.values())
    expected = {"empty": 0.1}
    for language, share in (("en", 0.25), ("zh", 0.75)):
        a, b = 0.9 * share / 2 * (1 - 0.2), 0.9 * share / 2  # sentences of either source
        expected[f"{language} plain"] = a * (1 - 0.2) + b * (1 - 0.6) * (1 - 0.3)
        expected[f"{language} reworded"] = b * (1 - 0.6) * 0.3
        expected[f"{language} styled"] = a * 0.2 + b * 0.6
        expected[f"{language} keyword"] = 0.9 * share / 2 * 0.2
    for name, share in expected.items():
        deviation = (share * (1 - share) / total) ** 0.5
        assert abs(counts[name] / total - share) < 5 * deviation, name


def test_an_item_without_the_wanted_language_shows_what_it_has(
    shards: TokenShards, items: list[TokenItem]
) -> None:
    loader = TokenLoader(shards, 16, mixture=Mixture(languages={"zh": 1}), epochs=1)
    for batch, texts in read(loader):
        for item, text in zip(batch, texts, strict=True):
            languages = {c.language for c in items[item].captions if c.pieces == tuple(text)}
            has_zh = any(caption.language == "zh" for caption in items[item].captions)
            assert ("zh" in languages) == has_zh


def test_ranks_share_a_batch_and_a_state(shards: TokenShards) -> None:
    whole = list(TokenLoader(shards, 8, epochs=1))
    parts = [list(TokenLoader(shards, 8, epochs=1, rank=rank, world=3)) for rank in range(3)]
    for number, (batch, state) in enumerate(whole):
        rows = [part[number][0]["items"] for part in parts]
        merged = [rows[place % 3][place // 3] for place in range(len(batch["items"]))]
        assert merged == batch["items"]
        assert all(part[number][1] == state for part in parts)


def test_long_texts_are_cut(shards: TokenShards) -> None:
    whole: dict[int, list[int]] = {}
    for batch, texts in read(TokenLoader(shards, 9, epochs=1)):
        whole.update(zip(batch, texts, strict=True))
    for batch, texts in read(TokenLoader(shards, 9, epochs=1, text_limit=5)):
        for item, text in zip(batch, texts, strict=True):
            assert text == whole[item][:5]


def test_a_foreign_state_is_refused(shards: TokenShards) -> None:
    state = TokenLoader(shards, 8).state
    with pytest.raises(CogViewError, match="other data or settings"):
        TokenLoader(shards, 9, state=state)
    with pytest.raises(CogViewError, match="damaged"):
        TokenLoader(shards, 8, state={"epoch": -1})


def test_a_mixture_must_name_what_is_there(shards: TokenShards) -> None:
    with pytest.raises(CogViewError, match=r"mixture\.weights: 'c' is not in the data; it has b, a"):
        TokenLoader(shards, 8, mixture=Mixture(weights={"c": 1}))
    with pytest.raises(CogViewError, match=r"mixture\.languages: 'de'"):
        TokenLoader(shards, 8, mixture=Mixture(languages={"de": 1}))
    with pytest.raises(CogViewError, match="weight 0"):
        TokenLoader(shards, 8, mixture=Mixture(weights={"a": 0, "b": 0}))
    with pytest.raises(ValueError, match="keyword must be a probability"):
        Mixture(keyword={"a": 2.0})
    with pytest.raises(ValueError, match="style must be a probability"):
        Mixture(style=-0.1)


def test_dropout_leaves_tokens_out_but_never_all(shards: TokenShards, items: list[TokenItem]) -> None:
    """Every text is a subsequence of one of the item's captions; the share left out is the one asked for."""
    texts = read(TokenLoader(shards, 8, mixture=Mixture(dropout=0.4), epochs=30))
    whole = read(TokenLoader(shards, 8, mixture=Mixture(), epochs=30))
    kept = sum(len(text) for _, batch in texts for text in batch)
    assert 0.55 < kept / sum(len(text) for _, batch in whole for text in batch) < 0.8
    for (drawn, batch), (_, full) in zip(texts, whole, strict=True):
        for text, before, _item in zip(batch, full, drawn, strict=True):
            places = iter(before)
            assert all(piece in places for piece in text)
            assert bool(text) == bool(before)
    assert texts == read(TokenLoader(shards, 8, mixture=Mixture(dropout=0.4), epochs=30))
    assert thinned([5, 6, 7], 0.5, 3) == thinned([5, 6, 7], 0.5, 3)
    assert {len(thinned([5, 6], 0.5, seed)) for seed in range(40)} == {1, 2}
