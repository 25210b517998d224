"""OpenAI's own client, unmodified, and LiteLLM's: what they send is taken, what they expect comes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from cogview import CogView2, from_pretrained
from tests.serving.conftest import Models, Site, png, serving

openai = pytest.importorskip("openai", reason="the extra `dev` is not installed")
from openai.types import image_model, images_response  # noqa: E402

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{site.port}/v1", api_key="any", max_retries=0) as found:
        yield found


def picture(entry: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry.b64_json)))


def checked(answer: Any) -> Any:
    """The answer, with every field that the client's types require, and of the right kind."""
    images_response.ImagesResponse.model_validate(answer.model_dump(), strict=True)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    details = answer.usage.input_tokens_details
    assert answer.usage.input_tokens == details.image_tokens + details.text_tokens
    return answer


def test_generate(client: Any, family: Path) -> None:
    answer = checked(client.images.generate(model="tiny", prompt=PROMPT, n=2, extra_body={"seed": 7}))
    made = from_pretrained(family).generate(PROMPT, n=2, seed=7)
    assert [base64.b64decode(one.b64_json) for one in answer.data] == [one.png() for one in made]
    assert (answer.background, answer.output_format, answer.quality) == ("opaque", "png", "medium")
    assert answer.size == "16x16" and answer.usage.output_tokens == 2 * 16


@pytest.mark.parametrize("name", get_args(image_model.ImageModel))
def test_every_model_name_of_the_client_is_answered(client: Any, name: str) -> None:
    assert client.images.generate(model=name, prompt=PROMPT, extra_body={"seed": 7}).model == "tiny"


def test_every_field_of_the_client_is_taken_and_what_means_nothing_is_told(client: Any) -> None:
    answer = client.images.with_raw_response.generate(
        model="gpt-image-2",
        prompt=PROMPT,
        background="opaque",
        complexity="low",
        frame_count=4,
        frame_duration_ms=100,
        moderation="low",
        n=1,
        output_compression=90,
        output_format="webp",
        quality="low",
        response_format="b64_json",
        safety_identifier="someone",
        size="48x32",
        stream=False,
        style="vivid",
        svg={"model": "x", "reasoning": {"effort": "low"}},
        user="someone else",
    )
    told = answer.headers["x-cogview-ignored"].split(", ")
    assert set(told) == {"complexity", "frame_count", "frame_duration_ms", "moderation", "style", "svg"}
    found = checked(answer.parse())
    assert found.safety_identifier == "someone" and found.quality == "low" and found.ignored == told
    assert picture(found.data[0]).size == (48, 32) and picture(found.data[0]).format == "WEBP"


def test_fields_that_are_null_are_not_given(client: Any) -> None:
    fields = ("background", "moderation", "n", "output_format", "quality", "response_format", "size", "style")
    assert client.images.generate(prompt=PROMPT, **dict.fromkeys(fields)).data


def test_unknown_fields_and_kinds_of_file_are_refused(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown field 'qualty'"):
        client.images.generate(prompt=PROMPT, extra_body={"qualty": "high"})
    with pytest.raises(openai.BadRequestError, match="'png', 'jpeg' or 'webp'"):
        client.images.generate(prompt=PROMPT, output_format="gif")
    with pytest.raises(openai.BadRequestError, match="jpeg has no transparency"):
        client.images.generate(prompt=PROMPT, output_format="jpeg", background="transparent")
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.images.generate(prompt=PROMPT, model="other")


def test_high_quality_is_the_best_of_four(client: Any, family: Path) -> None:
    answer = client.images.generate(prompt=PROMPT, quality="hd", extra_body={"seed": 5})
    [best] = from_pretrained(family).generate(PROMPT, best_of=4, seed=5)
    assert base64.b64decode(answer.data[0].b64_json) == best.png()
    assert answer.quality == "high" and answer.usage.output_tokens == 4 * 16


def test_a_long_prompt_is_cut_for_openais_names_and_refused_for_ours(client: Any) -> None:
    long = "a red circle, " * 40
    answer = client.images.generate(prompt=long, model="dall-e-3")
    assert long.startswith(answer.data[0].revised_prompt) and answer.ignored == ["prompt (its end)"]
    with pytest.raises(openai.BadRequestError, match="tokens and the model reads"):
        client.images.generate(prompt=long, model="tiny")


def test_streams_have_the_clients_events(client: Any) -> None:
    asked = {"prompt": PROMPT, "n": 2, "partial_images": 2, "size": "40x40", "extra_body": {"seed": 7}}
    events = list(client.images.generate(stream=True, **asked))
    kinds = [type(event).__name__ for event in events]
    assert kinds.count("ImageGenPartialImageEvent") == 4 and kinds.count("ImageGenCompletedEvent") == 2
    for event in events:
        type(event).model_validate(event.model_dump(), strict=True)
        assert event.size == "40x40" and picture(event).size == (40, 40)
    whole = client.images.generate(**asked | {"partial_images": 0})
    finished = {event.index: event.b64_json for event in events if event.type.endswith("completed")}
    assert finished == {number: one.b64_json for number, one in enumerate(whole.data)}
    assert events[-1].usage.output_tokens == 16


def mask() -> bytes:
    """Transparent, so open, at the left."""
    alpha = np.full((16, 20), 255, np.uint8)
    alpha[:, :8] = 0
    image = Image.new("RGBA", (20, 16), "white")
    image.putalpha(Image.fromarray(alpha))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_edit_with_a_mask(client: Any, editor: Path) -> None:
    asked = {"prompt": PROMPT, "model": "gpt-image-2", "extra_body": {"seed": 5, "feather": 0}}
    answer = checked(client.images.edit(image=("a.png", png()), mask=("m.png", mask()), n=2, **asked))
    hole = np.zeros((16, 20), bool)
    hole[:, :8] = True
    made = CogView2.from_pretrained(editor).edit(
        Image.open(io.BytesIO(png())), PROMPT, hole, n=2, seed=5, feather=0
    )
    assert [base64.b64decode(one.b64_json) for one in answer.data] == [one.png() for one in made]
    assert answer.usage.input_tokens_details.image_tokens == 16 and answer.size == "20x16"


def test_edit_of_several_images_without_a_mask(client: Any) -> None:
    images = [("a.png", png()), ("b.png", png(colour=(0, 0, 200)))]
    asked = {"image": images, "prompt": PROMPT, "extra_body": {"seed": 5}}
    high = client.images.edit(input_fidelity="high", size="32x32", quality="low", user="me", **asked)
    low = client.images.edit(input_fidelity="low", size="32x32", quality="low", **asked)
    assert high.ignored == ["image (all but the first)"] and high.safety_identifier == "me"
    assert picture(high.data[0]).size == (32, 32) and high.data[0].b64_json != low.data[0].b64_json


def test_every_field_of_an_edit_is_taken(client: Any) -> None:
    answer = client.images.edit(
        image=png(),
        mask=mask(),
        markup=mask(),
        prompt=PROMPT,
        background="opaque",
        complexity="high",
        input_fidelity="high",
        output_format="jpeg",
        output_compression=70,
        quality="standard",
        response_format="b64_json",
        svg={"model": "x", "reasoning": {"effort": "low"}},
        n=1,
    )
    assert set(answer.ignored) == {"complexity", "input_fidelity", "markup", "svg"}
    assert picture(answer.data[0]).format == "JPEG"


def test_edits_stream(client: Any) -> None:
    asked = {"image": png(), "mask": mask(), "prompt": PROMPT, "n": 2, "extra_body": {"seed": 5}}
    events = list(client.images.edit(stream=True, partial_images=1, **asked))
    assert [type(event).__name__ for event in events] == ["ImageEditCompletedEvent"] * 2
    for event in events:
        type(event).model_validate(event.model_dump(), strict=True)
    assert [event.b64_json for event in events] == [x.b64_json for x in client.images.edit(**asked).data]


def test_variations(client: Any) -> None:
    answer = client.images.create_variation(
        image=png(), model="dall-e-2", n=2, size="256x256", response_format="url", user="me"
    )
    assert answer.size == "256x256" and all(one.url.startswith("http://127.0.0.1") for one in answer.data)


def test_the_asynchronous_client(site: Site, client: Any) -> None:
    async def ask() -> tuple[Any, list[Any], Any]:
        async with openai.AsyncOpenAI(base_url=str(client.base_url), api_key="any") as own:
            asked = {"prompt": PROMPT, "extra_body": {"seed": 7}}
            whole = own.images.generate(**asked)
            edited = own.images.edit(image=png(), mask=mask(), **asked)
            stream = await own.images.generate(stream=True, partial_images=1, **asked)
            return await whole, [event async for event in stream], await edited

    whole, events, edited = asyncio.run(ask())
    assert whole.data[0].b64_json == events[-1].b64_json and edited.data
    assert [event.type.partition(".")[2] for event in events] == ["partial_image", "completed"]


def test_models_and_aliases(models: Models) -> None:
    from cogview.serving.served import Models as All

    own = All(list(models.by_name.values()), {"dall-e-3": "tiny2", "draw": "tiny"})
    with (
        serving(own) as site,
        openai.OpenAI(base_url=f"http://127.0.0.1:{site.port}/v1", api_key="x") as client,
    ):
        assert [one.id for one in client.models.list()] == ["tiny", "tiny2"]
        assert (
            client.models.retrieve("draw").id == "tiny" and client.models.retrieve("dall-e-3").id == "tiny2"
        )
        assert client.images.generate(prompt=PROMPT, model="dall-e-3", quality="low").model == "tiny2"
        listed = site.ask("/v1/models").json["data"]
        assert [one["cogview"]["aliases"] for one in listed] == [["draw"], ["dall-e-3"]]


def test_litellm_draws_and_edits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch its prices
    litellm = pytest.importorskip("litellm", reason="the extra `dev` is not installed")
    place = {"api_base": f"http://127.0.0.1:{site.port}/v1", "api_key": "any"}
    answer = litellm.image_generation(
        PROMPT, "openai/gpt-image-1", n=2, size="1024x1024", quality="high", user="me", **place
    )
    assert len(answer.data) == 2 and answer.usage.total_tokens > 0
    own = litellm.image_generation(PROMPT, "openai/dall-e-3", quality="hd", **place)
    assert picture(own.data[0]).size == (16, 16)
    edited = litellm.image_edit(image=io.BytesIO(png()), prompt=PROMPT, model="gpt-image-1", **place)
    assert json.loads(edited.model_dump_json())["data"][0]["b64_json"]
