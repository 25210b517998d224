"""Other wordings of captions: what may change, what may not, and that records carry them."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.data.samples import Caption
from cogview.data.sources.record import Record
from cogview.data.wordings import RewordedSource, wordings


def test_english_gets_articles_by_sound() -> None:
    assert {"a red apple", "the red apple"} <= set(wordings("red apple", "en", 20))
    assert "an apple" in wordings("apple", "en", 20)
    assert "a unicorn" in wordings("unicorn", "en", 20) and "an umbrella" in wordings("umbrella", "en", 20)
    assert "apple" in wordings("an apple", "en", 20)
    plural = [text.lower() for text in wordings("two red apples", "en", 20)]
    assert plural and not any(text.startswith(("a two", "an two")) or " a two" in text for text in plural)


def test_chinese_loses_its_measure_word_but_not_its_noun() -> None:
    found = wordings("一只蓝色的狗，红色背景", "zh", 20)
    assert "蓝色的狗，红色背景" in found and "一只蓝色的狗" in found
    assert all("狗" in text for text in found)


def test_an_untagged_caption_is_read_by_its_script() -> None:
    assert any("图" in text or "画" in text for text in wordings("红苹果", "", 20))
    assert any("picture" in text or "drawing" in text for text in wordings("red apple", "", 20))


def test_other_languages_keep_their_words() -> None:
    words = {"chat", "rouge", "fond", "blanc", "assis"}
    for text in wordings("chat rouge, fond blanc, assis", "fr", 20):
        assert set(text.replace(",", "").split()) <= words and text.startswith("chat rouge")


@pytest.mark.parametrize("language", ["en", "zh", "de", ""])
@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60), count=st.integers(1, 9), seed=st.integers(0, 5))
def test_any_text_gives_at_most_that_many_others_always_the_same(
    language: str, text: str, count: int, seed: int
) -> None:
    found = wordings(text, language, count, seed)
    assert found == wordings(text, language, count, seed)
    assert len(found) == len(set(found)) <= count and text not in found


class Given:
    """A source of the records it was given."""

    def __init__(self, records: list[Record]) -> None:
        self.held = records

    def __len__(self) -> int:
        return len(self.held)

    def fingerprint(self) -> str:
        return "given"

    def records(self, start: int = 0) -> Iterator[Record]:
        return iter(self.held[start:])


def test_records_carry_wordings_of_their_plain_captions_only() -> None:
    captions = (Caption("red car, white background", "en"), Caption("car", "en", "keyword"))
    source = Given([Record("a", None, captions, "s", "train", "here")])
    (record,) = RewordedSource(source, 5).records()
    assert record.captions[:2] == captions
    added = record.captions[2:]
    assert 0 < len(added) <= 5
    assert all(caption.kind == "reworded" and caption.language == "en" for caption in added)
    assert all("car" in caption.text and "keyword" not in caption.text for caption in added)
    assert RewordedSource(source, 5).fingerprint() != RewordedSource(source, 6).fingerprint()
