"""A CPU prefills a long text in chunks, so that the request can be cancelled; the results stay the same."""

from collections.abc import Callable

import pytest
import torch

from model import Answer, AnswerRequest, Engine, Event, Message, PrefixRead, Trace, Waiting
from model.inputs.token_sequence import TokenSequence, build_sequence
from model.network.attention import Segment
from model.sampling import prefix_cache
from tests.model.prefix_reuse import SHORT, drawing, of

LONG = "a quick brown fox and one lazy dog " * 25
PICTURES = (drawing((64, 96), 1), drawing((96, 64), 2))
QUESTION = AnswerRequest(f"{LONG}<image>{LONG}<image> What is it?", PICTURES, settings=SHORT)


def run(engine: Engine, request: AnswerRequest) -> tuple[list[Event], torch.Tensor]:
    trace = Trace()
    events = list(engine.run(request, trace))
    assert trace.first_logits is not None
    return events, trace.first_logits


def test_chunks_do_not_change_the_answer(engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the first prefill, and one that continues a cached prefix."""
    for request in (QUESTION, AnswerRequest(f"{LONG} Sure? {LONG}", PICTURES, history=history(), settings=SHORT)):
        monkeypatch.setattr(prefix_cache, "CHUNK_WORK", 0)
        events, logits = run(engines[0], request)
        monkeypatch.setattr(prefix_cache, "CHUNK_WORK", 2**40)
        whole, expected = run(engines[1], request)
        assert len(of(events, Waiting)) > 3 and not of(whole, Waiting)
        assert of(events, Answer) == of(whole, Answer)
        lengths = [
            (read.tokens, read.image_tokens, read.reused) for each in (events, whole) for read in of(each, PrefixRead)
        ]
        assert lengths[0] == lengths[1]
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def history() -> tuple[Message, ...]:
    return Message("user", QUESTION.prompt), Message("assistant", "A cat.")


def test_a_cancelled_prefill_leaves_nothing_behind(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_cache, "CHUNK_WORK", 0)
    engine, fresh = engines
    stream = engine.run(QUESTION)
    assert next(event for event in stream if isinstance(event, Waiting)).position == 0
    stream.close()  # type: ignore[attr-defined]
    events, logits = run(engine, QUESTION)
    assert of(events, PrefixRead)[0].reused == 0
    fresh.clear_cache()
    torch.testing.assert_close(logits, run(fresh, QUESTION)[1], rtol=0, atol=0)


def test_the_parts_of_a_sequence(tiny_sequence: Callable[[str, int], TokenSequence]) -> None:
    """They are the sequence again when they are joined; no image is split, and no text beyond the limit."""
    for text, images in (("a", 0), ("a" * 700, 0), (f"{'b' * 300}<image>c<image>{'d' * 513}", 2)):
        sequence = tiny_sequence(text, images)
        parts = sequence.split_long_texts(0, 256, 0)
        assert torch.equal(torch.cat([part.ids for part in parts]), sequence.ids)
        assert torch.equal(torch.cat([part.positions for part in parts], dim=1), sequence.positions)
        assert sum(part.images for part in parts) == images
        assert all(sum(each.count for each in part.segments) == len(part) for part in parts)
        assert all(each.count <= 256 for part in parts for each in part.segments if each.causal)
        assert [part.next_position for part in parts[:-1]] == [int(part.positions[0, 0]) for part in parts[1:]]
        assert parts[-1].next_position == sequence.next_position


def test_parts_become_shorter_as_the_text_goes_on(tiny_sequence: Callable[[str, int], TokenSequence]) -> None:
    """Each token sees all tokens before it, also those before the sequence."""
    sequence = tiny_sequence("a" * 3000, 0)
    assert [len(part) for part in sequence.split_long_texts(0, 256, 1024**2)] == [1024, 512, 512, 256, 256, 256, 184]
    assert [len(part) for part in sequence.split_long_texts(8192, 256, 1024**2)][:2] == [256, 256]


def test_a_short_text_is_one_part(tiny_sequence: Callable[[str, int], TokenSequence]) -> None:
    sequence = tiny_sequence("a <image> b <image>", 2)
    (part,) = sequence.split_long_texts(0, 256, 0)
    assert part.segments == sequence.segments and Segment(6, causal=False) in part.segments


@pytest.fixture
def tiny_sequence(engine: Engine) -> Callable[[str, int], TokenSequence]:
    """Returns the sequence of a text with images of 2 × 3 tokens in the places of `<image>`."""
    from model.inputs.prompts import IMAGE_SLOT

    def build(text: str, images: int) -> TokenSequence:
        tokenizer = engine._runner._tokenizer  # type: ignore[attr-defined]
        return build_sequence(text.replace("<image>", IMAGE_SLOT), [(2, 3)] * images, tokenizer, torch.device("cpu"))

    return build
