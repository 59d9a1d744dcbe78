"""Questions about drawings to an engine, and a comparison with an engine that caches nothing."""

import random
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image, ImageDraw

from model import Answer, AnswerRequest, Conversation, Engine, Event, ImageSettings, PrefixRead, TextSettings, Trace

SHORT = TextSettings(max_tokens=6)
SMALL = ImageSettings(size="64x96", num_steps=2, seed=5)
EventType = TypeVar("EventType", bound=Event)


def drawing(size: tuple[int, int], seed: int) -> Image.Image:
    """Draw a picture that is different for each seed."""
    numbers = random.Random(seed)
    image = Image.new("RGB", size, (numbers.randrange(256), numbers.randrange(256), numbers.randrange(256)))
    for _ in range(8):
        corner = numbers.randrange(size[0]), numbers.randrange(size[1])
        ImageDraw.Draw(image).circle(corner, min(size) / 4, (numbers.randrange(256), 0, numbers.randrange(256)))
    return image


def of(events: list[Event], kind: type[EventType]) -> list[EventType]:
    return [event for event in events if isinstance(event, kind)]


@dataclass(frozen=True)
class Answered(Answer):
    """An answer with the logits of its first token."""

    first_logits: torch.Tensor


def answer_of(events: list[Event], trace: Trace) -> Answered:
    assert trace.first_logits is not None
    return Answered(**vars(of(events, Answer)[0]), first_logits=trace.first_logits)


def ask(engine: Engine, request: AnswerRequest) -> tuple[Answered, PrefixRead]:
    trace = Trace()
    events = list(engine.run(request, trace))
    return answer_of(events, trace), of(events, PrefixRead)[0]


def require_fresh(answer: Answered, fresh: Engine, request: AnswerRequest) -> None:
    """Require the answer of an engine that has nothing cached."""
    fresh.clear_cache()
    expected, read = ask(fresh, request)
    assert read.reused == 0
    assert answer.token_ids == expected.token_ids
    assert answer.text == expected.text
    torch.testing.assert_close(answer.first_logits, expected.first_logits, rtol=1e-4, atol=1e-4)


def conversation_about(*pictures: Image.Image, answer: str = "A cat.", system: str = "") -> Conversation:
    request = Conversation(system=system).ask("What is it?", pictures, SHORT)
    return Conversation.after(request, answer)
