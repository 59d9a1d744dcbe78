"""OpenAI's Chat Completions API, used by OpenAI's own client."""

import asyncio
from typing import Any

import openai
import pytest

from tests.cli.fake_engine import ANSWER, THINK
from tests.serve.clients import BLUE, RED, client, data_url, error_of, from_data_url, opened, plain
from tests.serve.conftest import Process, Served
from tests.waiting import until

QUESTION: list[Any] = [{"role": "user", "content": "What is it?"}]


@pytest.fixture
def api(served: Served) -> openai.OpenAI:
    """OpenAI's client of a server on a fake engine."""
    return client(served.url)


def about(*files: bytes, text: str = "What is it?") -> dict[str, Any]:
    """Return a user's message with pictures."""
    pictures = [{"type": "image_url", "image_url": {"url": data_url(file)}} for file in files]
    return {"role": "user", "content": [{"type": "text", "text": text}, *pictures]}


def asked(api: openai.OpenAI, messages: list[Any] = QUESTION, **fields: Any) -> Any:
    """Return the completion for a chat."""
    completion: Any = api.chat.completions.create(**{"model": "demo", **fields}, messages=messages)
    assert type(completion).model_validate(completion.to_dict())
    return completion


def chunks(api: openai.OpenAI, messages: list[Any] = QUESTION, **fields: Any) -> list[Any]:
    """Return the chunks of a streamed completion."""
    found: list[Any] = list(api.chat.completions.create(**{"model": "demo", **fields}, messages=messages, stream=True))
    for chunk in found:
        assert type(chunk).model_validate(chunk.to_dict())
    assert len({(each.id, each.model, each.created) for each in found}) == 1
    return found


def text_of(found: list[Any]) -> str:
    """Return the text of a stream."""
    return "".join(each.choices[0].delta.content or "" for each in found if each.choices)


def notices_of(completion: Any) -> str:
    """Return the notices of a completion, or of the last chunk of a stream."""
    return "\n".join(completion.model_extra["notices"])


def request_of(served: Served) -> Any:
    """Return the last request that the engine has received."""
    return served.engine.requests[-1]


def test_an_answer(served: Served, api: openai.OpenAI) -> None:
    completion = asked(api)
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "".join(ANSWER), "stop")
    assert (completion.model, completion.object) == ("demo", "chat.completion")
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 4, 14)
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert notices_of(completion) == ""
    assert not request_of(served).settings.do_sample


def test_a_stream_has_the_same_text(api: openai.OpenAI) -> None:
    found = chunks(api)
    assert text_of(found) == asked(api).choices[0].message.content
    assert found[0].choices[0].delta.role == "assistant"
    assert [each.choices[0].finish_reason for each in found] == [None] * (len(found) - 1) + ["stop"]
    assert len(found) == 2 + len(ANSWER), "one chunk for each token"
    assert all(each.usage is None for each in found)


def test_a_stream_ends_with_its_usage_if_asked(api: openai.OpenAI) -> None:
    *found, last = chunks(api, stream_options={"include_usage": True})
    assert text_of(found) == "".join(ANSWER) and all(each.usage is None for each in found)
    assert last.choices == [] and last.usage == asked(api).usage


def test_an_answer_that_is_cut_off(served: Served, api: openai.OpenAI) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        completion = asked(api, **{field: 2})
        assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("It is ", "length")
        assert completion.usage.completion_tokens == 2
        found = chunks(api, **{field: 2})
        assert (text_of(found), found[-1].choices[0].finish_reason) == ("It is ", "length")


def test_characters_that_are_split_over_tokens(served: Served, api: openai.OpenAI) -> None:
    served.engine.answer = ["Ein ", "", "🦊", " schläft", ": 狐", "\u2028\nx"]
    assert text_of(chunks(api)) == asked(api).choices[0].message.content == "Ein 🦊 schläft: 狐\u2028\nx"
    served.engine.answer = ["ok ", "�"]
    assert text_of(chunks(api)) == asked(api).choices[0].message.content == "ok �"


def test_sampling(served: Served, api: openai.OpenAI) -> None:
    asked(api, temperature=0, seed=5)
    assert (request_of(served).settings.do_sample, request_of(served).settings.seed) == (False, 5)
    asked(api, temperature=0.5, top_p=0.9, seed=6)
    settings = request_of(served).settings
    assert (settings.do_sample, settings.temperature, settings.top_p, settings.seed) == (True, 0.5, 0.9, 6)
    asked(api, top_p=0.9)
    assert request_of(served).settings.do_sample
    asked(api, temperature=1, extra_body={"do_sample": False, "top_k": 3})
    assert (request_of(served).settings.do_sample, request_of(served).settings.top_k) == (False, 3)
    first, second = asked(api, temperature=1), asked(api, temperature=1)
    assert first.model_extra["seed"] != second.model_extra["seed"], "a missing seed is random, and told"


def test_roles(served: Served, api: openai.OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Hi."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A model."},
        {"role": "user", "content": "And now?"},
    ]
    asked(api, messages)
    request = request_of(served)
    assert request.system == "Be brief.\nBe kind." and request.prompt == "And now?"
    assert [(each.role, each.text) for each in request.history] == [
        ("assistant", "Hello!"),
        ("user", "Hi.\nWho are you?"),
        ("assistant", "A model."),
    ]


def test_pictures_of_a_conversation(served: Served, api: openai.OpenAI) -> None:
    messages = [about(plain(RED)), {"role": "assistant", "content": "Red."}, about(plain(BLUE), text="And this?")]
    asked(api, messages)
    request = request_of(served)
    assert [image.getpixel((0, 0)) for image in request.images] == [RED, BLUE]
    assert [each.text for each in request.history] == ["<image>\nWhat is it?", "Red."]
    url = data_url(plain(BLUE))
    forms: list[Any] = [
        {"type": "image_url", "image_url": url},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "input_image", "image_url": url},
    ]
    for part in forms:
        asked(api, [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}])
        assert [image.getpixel((0, 0)) for image in request_of(served).images] == [BLUE]


def test_a_question_about_a_picture_of_the_model(served: Served, api: openai.OpenAI) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(plain(BLUE))}}
    for message in ({"content": "", "images": [part]}, {"content": [part]}):
        asked(api, [{"role": "user", "content": "Draw."}, {"role": "assistant", **message}, *QUESTION])
        request = request_of(served)
        assert [image.getpixel((0, 0)) for image in request.images] == [BLUE]
        assert [each.text for each in request.history] == ["Draw.", ""]


def test_fields_without_an_effect_are_named(api: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "look", "parameters": {}}}
    fields: dict[str, Any] = {"tools": [tool], "stop": ["."], "logprobs": True, "frequency_penalty": 0.5}
    quiet: dict[str, Any] = {"presence_penalty": 0, "n": 1, "user": "me", "tool_choice": "auto", "store": False}
    completion = asked(api, **fields, **quiet, extra_body={"colour": 1, "size": "64x64"}, modalities=["text"])
    assert completion.choices[0].message.content == "".join(ANSWER)
    told = notices_of(completion)
    assert all(f'"{name}"' in told for name in (*fields, "colour", "size"))
    assert not any(f'"{name}"' in told for name in quiet)
    assert notices_of(chunks(api, **fields)[-1]) == notices_of(asked(api, **fields)) != ""


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        (QUESTION, {"n": 2}, "n"),
        (QUESTION, {"max_tokens": 0}, "max_tokens"),
        (QUESTION, {"max_tokens": 10_000}, "max_tokens"),
        (QUESTION, {"max_completion_tokens": 10_000}, "max_completion_tokens"),
        (QUESTION, {"n": 11, "model": "demo-draw"}, "n"),
        (QUESTION, {"extra_body": {"size": "100x100"}, "model": "demo-draw"}, "size"),
        (QUESTION, {"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        (QUESTION, {"temperature": 11}, "temperature"),
        (QUESTION, {"top_p": 0}, "top_p"),
        (QUESTION, {"modalities": ["audio"]}, "modalities"),
        (QUESTION, {"extra_body": {"stream_options": 7}}, "stream_options"),
        (QUESTION, {"extra_body": {"stream": "yes"}}, "stream"),
        (QUESTION, {"extra_body": {"lora": "none-such"}}, "lora"),
        ([], {}, "messages"),
        ([{"role": "assistant", "content": "Hello!"}], {}, "messages"),
        ([{"role": "tool", "content": "7"}], {}, "messages.0.role"),
        ([{"role": "user", "content": 7}], {}, "messages.0.content"),
        ([{"role": "user", "content": ""}], {}, "messages"),
        ([{"role": "user", "content": "<image> what?"}], {}, "messages"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], {}, "messages.0.content.0"),
        ([{"role": "assistant", "content": "", "images": 7}, *QUESTION], {}, "messages.0.images"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "messages.0.content.0"),
        ([about(b"no picture")], {}, "messages"),
        ([about(*[plain()] * 17)], {}, "messages"),
        ([{"role": "system", "content": about(plain())["content"]}, *QUESTION], {}, "messages.0"),
    ],
)
def test_wrong_requests(served: Served, api: openai.OpenAI, messages: Any, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        asked(api, messages, **fields)
    error = error_of(raised)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert served.engine.requests == []


@pytest.mark.parametrize("url", ["http://169.254.169.254/x.png", "file:///etc/passwd", "/etc/passwd", "ftp://a/b.png"])
def test_addresses_are_never_fetched(api: openai.OpenAI, url: str) -> None:
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    with pytest.raises(openai.BadRequestError) as raised:
        asked(api, [message])
    assert error_of(raised)["code"] == "picture_url_refused" and "data URL" in error_of(raised)["message"]


def test_an_unknown_model(api: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        asked(api, model="gpt-5")
    assert {each.id for each in api.models.list()} == {"demo", "demo-draw"}


def test_a_picture_beside_text(served: Served, api: openai.OpenAI) -> None:
    wish: dict[str, Any] = {"extra_body": {"modalities": ["image", "text"], "seed": 7, "think": True, "size": "96x64"}}
    completion = asked(api, **wish)
    message = completion.choices[0].message
    assert (message.content, completion.choices[0].finish_reason) == ("", "stop")
    assert message.model_extra["reasoning_content"] == "".join(THINK)
    (part,) = message.model_extra["images"]
    image = opened(from_data_url(part["image_url"]["url"]))
    assert (image.size, part["type"], part["seed"]) == ((96, 64), "image_url", 7)
    assert "sensenova" in image.text  # type: ignore[attr-defined]
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (10, 6 + 4)
    found = chunks(api, **wish, stream_options={"include_usage": True})
    deltas = [each.choices[0].delta for each in found if each.choices]
    extras = [delta.model_extra or {} for delta in deltas]
    assert "".join(each.get("reasoning_content", "") for each in extras) == "".join(THINK)
    with_pictures = [index for index, each in enumerate(extras) if "images" in each]
    last_thought = max(index for index, each in enumerate(extras) if "reasoning_content" in each)
    assert len(with_pictures) == 1 and with_pictures[0] > last_thought
    assert extras[with_pictures[0]]["images"][0]["image_url"] == part["image_url"]
    assert found[-1].usage == completion.usage
    assert found[-2].choices[0].finish_reason == "stop"


def test_the_twin_that_draws(served: Served, api: openai.OpenAI) -> None:
    completion = asked(api, model="demo-draw", temperature=1, max_tokens=5, frequency_penalty=0)
    assert len(completion.choices[0].message.model_extra["images"]) == 1
    told = notices_of(completion)
    assert "temperature" in told and "max_tokens" in told and "frequency_penalty" not in told
    several = asked(api, model="demo-draw", n=2)
    assert [part["seed"] for part in several.choices[0].message.model_extra["images"]] == [
        several.model_extra["seed"],
        several.model_extra["seed"] + 1,
    ]
    found = chunks(api, model="demo-draw", n=2)
    pictures = [each for chunk in found for each in (chunk.choices[0].delta.model_extra or {}).get("images", [])]
    assert [each["index"] for each in pictures] == [0, 1]
    asked(api, model="demo-draw", modalities=["text"])
    assert request_of(served).prompt == "What is it?" and not hasattr(request_of(served), "preview_every")


def test_the_newest_picture_is_changed(served: Served, api: openai.OpenAI) -> None:
    drawn = {
        "role": "assistant",
        "content": "",
        "images": [{"type": "image_url", "image_url": {"url": data_url(plain(BLUE))}}],
    }
    change = {"role": "user", "content": "Make it green."}
    asked(api, [about(plain(RED), text="Draw it."), drawn, change], model="demo-draw")
    request = request_of(served)
    assert request.prompt == "Make it green."
    assert [image.getpixel((0, 0)) for image in request.images] == [BLUE]
    asked(api, [about(plain(RED), text="Draw it."), drawn, about(plain(RED), text="Rather this.")], model="demo-draw")
    assert [image.getpixel((0, 0)) for image in request_of(served).images] == [RED]
    completion = asked(api, [{"role": "system", "content": "Be kind."}, change], model="demo-draw")
    assert "system messages" in notices_of(completion)
    assert not hasattr(request_of(served), "images"), "a chat without pictures draws a new one"


def test_eight_clients_at_once(served: Served) -> None:
    served.gate.clear()

    async def ask(api: openai.AsyncOpenAI, number: int) -> str:
        messages: list[Any] = [{"role": "user", "content": f"Question {number}"}]
        completion = await api.chat.completions.create(model="demo", messages=messages, max_tokens=1 + number % 4)
        return completion.choices[0].message.content or ""

    async def ask_all() -> list[str]:
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", http_client=http) as api:
            tasks = []
            for number in range(8):
                tasks.append(asyncio.create_task(ask(api, number)))
                waiting = number
                while len(served.service.scheduler.waiting) + (served.service.scheduler.running is not None) <= waiting:
                    await asyncio.sleep(0.01)
            served.gate.set()
            return await asyncio.gather(*tasks)

    assert asyncio.run(ask_all()) == ["".join(ANSWER[: 1 + number % 4]) for number in range(8)]
    assert [each.prompt for each in served.engine.requests] == [f"Question {number}" for number in range(8)]  # type: ignore[union-attr]


def test_a_client_that_goes_away_stops_its_answer(served: Served, api: openai.OpenAI) -> None:
    served.gate.clear()
    stream = api.chat.completions.create(model="demo", messages=QUESTION, stream=True)
    next(iter(stream))
    until(lambda: served.service.scheduler.running is not None)
    stream.close()
    job = served.service.scheduler.running
    assert job is not None
    until(lambda: job.stop.requested)
    served.gate.set()
    until(lambda: served.metric('requests_total{end="cancelled"}') == 1)
    assert asked(api).choices[0].message.content == "".join(ANSWER)


def test_a_fault_in_a_stream(served: Served, api: openai.OpenAI) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise RuntimeError("a secret")

    served.engine.on_step = fail
    seen = []
    with pytest.raises(openai.APIError) as raised:
        for chunk in api.chat.completions.create(model="demo", messages=QUESTION, stream=True):
            seen.append(chunk.choices[0].delta.content)
    assert raised.value.code == "unexpected" and "secret" not in str(raised.value)
    assert seen == ["", *ANSWER[:2]]


def test_token_counts_and_reuse_of_the_demo(demo_server: Process) -> None:
    from model import find_checkpoint
    from model.inputs.tokenizer import Tokenizer

    api = client(demo_server.url)
    messages: list[Any] = [about(plain(RED, (256, 256)), text="What is in the picture?")]
    completion = asked(api, messages, max_tokens=16)
    answer = completion.choices[0].message.content
    found = chunks(api, messages, max_tokens=16, stream_options={"include_usage": True})
    assert text_of(found) == answer != ""
    again = found[-1].usage
    assert (again.prompt_tokens, again.completion_tokens) == (
        completion.usage.prompt_tokens,
        completion.usage.completion_tokens,
    )
    tokenizer = Tokenizer(find_checkpoint("demo"))
    assert completion.usage.completion_tokens == len(tokenizer.encode(answer))
    longer = asked(api, [about(plain(RED, (256, 256)), text="What is in the picture? Tell me.")], max_tokens=1)
    more = len(tokenizer.encode("What is in the picture? Tell me.")) - len(tokenizer.encode("What is in the picture?"))
    assert longer.usage.prompt_tokens == completion.usage.prompt_tokens + more
    second = asked(api, [*messages, {"role": "assistant", "content": answer}, *QUESTION], max_tokens=4)
    usage = second.usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
    assert usage.prompt_tokens_details.cached_tokens >= completion.usage.prompt_tokens - 5 - more
