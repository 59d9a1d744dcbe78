"""OpenAI's Chat Completions API: answers in text, or pictures if the request or the model's name asks for them."""

import base64
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from config.settings import TextSettings
from model import Answer, DenoisingStep, Event, PrefixRead, TextToken, ThinkText, ThinkToken
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.serve.bodies import read_json
from sensenova_cli.serve.errors import ApiError, bad_request
from sensenova_cli.serve.images import extras, sent_names, step_comment
from sensenova_cli.serve.images import usage as picture_usage
from sensenova_cli.serve.jobs import FinishedPicture, Job
from sensenova_cli.serve.messages import Chat, conversation_of, pictures_to_change, read_files, read_messages
from sensenova_cli.serve.picture_fields import WITHOUT_MEANING, merge_nested, picture_fields
from sensenova_cli.serve.service import Service, check_settings
from sensenova_cli.serve.streams import event_stream, follow, json_response, require_done, sse, unless_gone
from sensenova_cli.turns.tasks import AnswerTask, PictureTask

KNOWN = frozenset(("messages", "model", "modalities", "stream", "stream_options", "temperature", "top_p", "seed"))
"""Fields that this module reads itself."""
TEXT_NAMES = {"max_completion_tokens": "max_tokens", "max_new_tokens": "max_tokens"}
"""Names that other servers use → our settings of answers."""
NEUTRAL = {
    "n": (1,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logprobs": (False,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "reasoning_effort": ("none",),
}
"""Fields without effect → values that need no notice."""
PICTURE_HINTS = ("height", "width", "size", "num_inference_steps", "num_steps", "cfg_scale", "num_outputs_per_prompt")
"""Fields that only make sense for pictures. vLLM-Omni's server draws if a request has no `modalities`."""


class ChatApi:
    """Handler of `/v1/chat/completions`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def complete(self, request: Request) -> Response:
        """Answer the last message of a chat with text or pictures."""
        service = self._service
        fields = merge_nested(await read_json(request))
        service.scheduler.require_room()
        draws_by_name = service.require_model(fields.get("model"))
        chat = read_messages(fields.get("messages"))
        modalities = _modalities(fields)
        notices: list[str] = []
        if modalities is None:
            hints = [name for name in PICTURE_HINTS if fields.get(name) is not None]
            modalities = ["image", "text"] if draws_by_name or hints else ["text"]
            if hints and not draws_by_name:
                notices.append(f'the answer is a picture because of "{hints[0]}"; "modalities": ["text"] asks for text')
        stream, count_tokens = _streaming(fields)
        if "image" in modalities:
            job = await self._draw(chat, fields, notices)
            answer: _Answer = _PictureAnswer(service, job, in_content=modalities == ["image"])
        else:
            job = await self._answer(chat, fields, notices)
            answer = _TextAnswer(service, job)
        if stream:
            return event_stream(service, job, answer.chunks(count_tokens))
        return await unless_gone(request, service, job, answer.whole)

    async def _draw(self, chat: Chat, fields: dict[str, Any], notices: list[str]) -> Job:
        service = self._service
        wanted = {name: value for name, value in fields.items() if name == "n" or value not in NEUTRAL.get(name, ())}
        given = picture_fields(wanted, KNOWN - {"seed"})
        if chat.system:
            notices.append("system messages have no effect on pictures")
        if any(fields.get(name) is not None for name in ("temperature", "top_p")):
            notices.append('"temperature" and "top_p" have no effect on pictures')
        inputs = await read_files(pictures_to_change(chat))
        kind: PictureKind = "edit" if inputs else "generate"
        task = PictureTask(kind, Prompt(chat.question, settings=given.settings), inputs)
        turn = service.build(task, names=sent_names(wanted))
        return service.submit(turn, given.lora, (*notices, *given.notices))

    async def _answer(self, chat: Chat, fields: dict[str, Any], notices: list[str]) -> Job:
        service = self._service
        settings = _text_fields(fields, notices)
        conversation, inputs = await conversation_of(chat)
        images = tuple(each.image for each in inputs)
        about_pictures = bool(images or conversation.images)
        task = AnswerTask("describe" if about_pictures else "chat", chat.question, images, conversation, settings)
        names = {setting: name for name, setting in TEXT_NAMES.items() if fields.get(name) is not None}
        try:
            turn = service.build(task, names=names)
        except ApiError as error:
            error.param = error.param or "messages"
            raise
        return service.submit(turn, fields.get("lora"), tuple(notices))


class _Answer:
    """Builds the answers to one request from the events of its job."""

    def __init__(self, service: Service, job: Job) -> None:
        self._service = service
        self._job = job

    async def whole(self) -> Response:
        """Wait for the answer and return it."""
        await self._job.wait()
        require_done(self._job)
        results = list(self._job.results)
        message = await self._message(results)
        choice = {"index": 0, "message": message, "finish_reason": self._finish(results), "logprobs": None}
        content = {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(results)}
        return json_response(content | self._extras(results))

    async def chunks(self, count_tokens: bool) -> AsyncGenerator[bytes]:
        """Yield the chunks of a stream.

        Args:
            count_tokens: add a chunk with the token counts at the end.
        """
        yield self._chunk({"role": "assistant", "content": ""})
        async for message in follow(self._job):
            if isinstance(message, bytes):
                yield message
            elif isinstance(message, ThinkToken):
                if message.text:
                    yield self._chunk({"reasoning_content": message.text})
            else:
                async for chunk in self._deltas(message):
                    yield chunk
        results = list(self._job.results)
        yield self._chunk({}, self._finish(results), self._extras(results))
        if count_tokens:
            yield sse({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(results)})
        yield b"data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._job.id.removeprefix('req-')}",
            "object": kind,
            "created": int(self._job.created_at),
            "model": self._service.name,
        }

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, more: Mapping[str, Any] = {}) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return sse({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def _extras(self, results: list[Event | FinishedPicture]) -> dict[str, Any]:
        """Return seed, notices and metrics, which include the think text: vLLM-Omni's clients read it there."""
        found = extras(self._job, results)
        think = next((each.text for each in results if isinstance(each, ThinkText)), None)
        metrics = {**(found["metrics"] or {}), "think_text": think}
        seed = self._job.turn.request.settings.seed
        return {"request_id": found["id"], "seed": seed, "notices": found["notices"], "metrics": metrics}

    async def _message(self, results: list[Event | FinishedPicture]) -> dict[str, Any]:
        raise NotImplementedError

    def _finish(self, results: list[Event | FinishedPicture]) -> str:
        """Return the reason for the end of the answer, in OpenAI's words."""
        answer = next((each for each in results if isinstance(each, Answer)), None)
        return "length" if answer is not None and answer.finish == "length" else "stop"

    def _deltas(self, message: Event | Any) -> AsyncGenerator[bytes]:
        raise NotImplementedError

    def _usage(self, results: list[Event | FinishedPicture]) -> dict[str, Any]:
        raise NotImplementedError


class _TextAnswer(_Answer):
    """An answer in text."""

    def __init__(self, service: Service, job: Job) -> None:
        super().__init__(service, job)
        self._sent = ""

    async def _message(self, results: list[Event | FinishedPicture]) -> dict[str, Any]:
        answer = next(each for each in results if isinstance(each, Answer))
        return {"role": "assistant", "content": answer.text}

    async def _deltas(self, message: Event | Any) -> AsyncGenerator[bytes]:
        if isinstance(message, TextToken) and message.text:
            self._sent += message.text
            yield self._chunk({"content": message.text})
        elif isinstance(message, Answer) and message.text.startswith(self._sent):
            rest = message.text[len(self._sent) :]  # an incomplete character at the end, which no token has shown
            if rest:
                yield self._chunk({"content": rest})

    def _usage(self, results: list[Event | FinishedPicture]) -> dict[str, Any]:
        prefix = next((each for each in results if isinstance(each, PrefixRead)), None)
        new = next((len(each.token_ids) for each in results if isinstance(each, Answer)), 0)
        prompt, reused = (prefix.tokens, prefix.reused) if prefix else (0, 0)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "prompt_tokens_details": {"cached_tokens": reused},
        }


class _PictureAnswer(_Answer):
    """An answer of pictures.

    Args:
        in_content: write the pictures into the message's content, as vLLM-Omni does; otherwise into its `images`.
    """

    def __init__(self, service: Service, job: Job, in_content: bool) -> None:
        super().__init__(service, job)
        self._in_content = in_content

    async def _message(self, results: list[Event | FinishedPicture]) -> dict[str, Any]:
        parts = [await _part(each) for each in results if isinstance(each, FinishedPicture)]
        message: dict[str, Any] = {"role": "assistant", "content": parts if self._in_content else ""}
        if not self._in_content:
            message["images"] = parts
        think = next((each.text for each in results if isinstance(each, ThinkText)), None)
        if think is not None:
            message["reasoning_content"] = think
        return message

    async def _deltas(self, message: Event | Any) -> AsyncGenerator[bytes]:
        if isinstance(message, DenoisingStep):
            yield step_comment(message)
        elif isinstance(message, FinishedPicture):
            part = {**await _part(message), "index": message.picture.index}
            yield self._chunk({"content": [part]} if self._in_content else {"images": [part]})

    def _usage(self, results: list[Event | FinishedPicture]) -> dict[str, Any]:
        counts = picture_usage(results, [each for each in results if isinstance(each, FinishedPicture)])
        return {
            "prompt_tokens": counts["input_tokens"],
            "completion_tokens": counts["output_tokens"],
            "total_tokens": counts["total_tokens"],
            "prompt_tokens_details": {"cached_tokens": counts["input_tokens_details"]["cached_tokens"]},
        }


async def _part(finished: FinishedPicture) -> dict[str, Any]:
    file, settings = await finished.png, finished.picture.settings
    url = f"data:image/png;base64,{base64.b64encode(file).decode()}"
    return {"type": "image_url", "image_url": {"url": url}, "seed": settings.seed, "size": settings.size}


def _modalities(fields: Mapping[str, Any]) -> list[str] | None:
    given = fields.get("modalities")
    if given is None:
        return None
    if not isinstance(given, list) or not given or any(each not in ("text", "image") for each in given):
        raise bad_request('"modalities" is a list of "text" and "image"', 'use ["image"]', param="modalities")
    return [str(each) for each in given]


def _streaming(fields: Mapping[str, Any]) -> tuple[bool, bool]:
    stream, options = fields.get("stream"), fields.get("stream_options")
    if not isinstance(stream, bool | None):
        raise bad_request('"stream" must be true or false', param="stream")
    if not isinstance(options, Mapping | None):
        raise bad_request('"stream_options" must be an object', param="stream_options")
    return bool(stream), bool(options and options.get("include_usage"))


def _text_fields(fields: Mapping[str, Any], notices: list[str]) -> dict[str, Any]:
    """Return the checked settings of an answer. A temperature above 0 turns sampling on, 0 turns it off."""
    given: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in fields.items():
        setting = TEXT_NAMES.get(name, name)
        if value is None or name in ("messages", "model", "modalities", "stream", "stream_options", "lora"):
            continue
        if setting in TextSettings.model_fields:
            if setting in given and given[setting] != value:
                raise bad_request(f'"{names[setting]}" and "{name}" contradict each other', "give one", param=name)
            given[setting], names[setting] = value, name
        elif value not in NEUTRAL.get(name, ()) and name not in WITHOUT_MEANING and value not in ("", [], {}, False):
            if name == "n":
                raise bad_request('"n": a chat has one answer', 'leave out "n"', param="n", code="not_supported")
            notices.append(f'"{name[:100]}" has no effect')
    temperature = given.get("temperature")
    if isinstance(temperature, int | float) and temperature == 0:
        del given["temperature"]
        given["do_sample"] = False
    elif ("temperature" in given or given.get("top_p", 1) != 1) and "do_sample" not in given:
        given["do_sample"] = True
    return check_settings(given, TextSettings, names)
