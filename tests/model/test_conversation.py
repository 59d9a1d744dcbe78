"""Conversations: a question processes only tokens that are new, and its answer is the same as without a prefix cache.

The fixture `engines` has the tested engine and a second one, whose prefix cache is cleared before each request.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from PIL import Image

from model import (
    Conversation,
    Engine,
    GenerateRequest,
    InterleaveRequest,
    Message,
    PicturePart,
    PrefixRead,
    RequestError,
    Statistics,
    TextPart,
    TextSettings,
    Trace,
)
from model.inputs.image_tensors import prepare_image
from tests.model.prefix_reuse import SHORT, SMALL, answer_of, ask, conversation_about, drawing, of, require_fresh

CHECKPOINTS = ["tiny", "u1", "u15", "a3b"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_second_question_about_a_picture_processes_only_new_tokens(
    pair: Callable[[str], tuple[Engine, Engine]], name: str
) -> None:
    engine, fresh = pair(name)
    picture = drawing((1024, 1024), 1)
    request = Conversation().ask("What is it?", (picture,), SHORT)
    answer, read = ask(engine, request)
    assert read.image_tokens == 1024
    assert read.reused == 0
    for question in ("Which colour?", "How many?"):
        request = Conversation.after(request, answer.text).ask(question, settings=SHORT)
        trace = Trace()
        events = list(engine.run(request, trace))
        answer, read, statistics = answer_of(events, trace), of(events, PrefixRead)[0], of(events, Statistics)[0]
        assert read.image_tokens == 1024
        assert 0 < read.tokens - read.reused <= 64
        assert statistics.prefix_tokens == read.tokens - read.reused
    require_fresh(answer, fresh, request)


@pytest.mark.parametrize(("name", "seed"), [("tiny", 0), ("tiny", 1), ("u1", 2), ("u15", 3), ("a3b", 4)])
def test_any_conversation_has_the_answers_of_an_empty_cache(
    pair: Callable[[str], tuple[Engine, Engine]], name: str, seed: int
) -> None:
    """Questions with and without new pictures, edited turns, replaced pictures, and other requests in between."""
    engine, fresh = pair(name)
    numbers = random.Random(seed)
    conversation = Conversation(system=numbers.choice(["", "Be brief."]))
    reused = 0
    for turn in range(6):
        images = tuple(drawing((64, 96), numbers.randrange(99)) for _ in range(numbers.choice([0, 0, 1, 2])))
        request = conversation.ask(numbers.choice(["What is it?", "And now?", "Why so?"]), images, SHORT)
        answer, read = ask(engine, request)
        require_fresh(answer, fresh, request)
        reused += read.reused
        conversation = Conversation.after(request, answer.text)
        match numbers.choice(["go on", "go on", "edit a turn", "replace a picture", "start again", "draw"]):
            case "edit a turn":
                place = numbers.randrange(len(conversation.turns))
                turns = list(conversation.turns)
                turns[place] = replace(turns[place], text=turns[place].text + f" ({turn})")
                conversation = replace(conversation, turns=tuple(turns))
            case "replace a picture" if conversation.images:
                place = numbers.randrange(len(conversation.images))
                other = drawing(conversation.images[place].size, 100 + turn)
                images = conversation.images
                conversation = replace(conversation, images=(*images[:place], other, *images[place + 1 :]))
            case "start again":
                conversation = Conversation()
            case "draw":
                list(engine.run(GenerateRequest("a cat", SMALL)))
    assert reused


def picture_tokens(engine: Engine, picture: Image.Image) -> int:
    prepared = prepare_image(picture, engine.card.recommended.answer_input)
    return prepared.shape[2] * prepared.shape[3] // 32**2


def test_another_picture_of_the_same_size_is_processed(engines: tuple[Engine, Engine]) -> None:
    engine, fresh = engines
    first, second = (conversation_about(drawing((256, 256), seed)).ask("Sure?", settings=SHORT) for seed in (1, 2))
    answers = [ask(engine, request) for request in (first, second)]
    assert answers[1][1].reused < 16, "only the text before the picture"
    assert answers[0][0].first_logits.tolist() != answers[1][0].first_logits.tolist()
    require_fresh(answers[1][0], fresh, second)


def test_pictures_of_different_shapes_are_not_confused(engines: tuple[Engine, Engine]) -> None:
    """Both pictures have the same tokens in the same order."""
    engine, fresh = engines
    wide, tall = (
        conversation_about(Image.new("RGB", size, "navy")).ask("Sure?", settings=SHORT)
        for size in ((512, 256), (256, 512))
    )
    ask(engine, wide)
    answer, read = ask(engine, tall)
    assert read.reused < 16
    require_fresh(answer, fresh, tall)


def test_an_unchanged_picture_before_a_replaced_one_is_reused(engines: tuple[Engine, Engine]) -> None:
    engine, fresh = engines
    one, two, three = (drawing((256, 288), seed) for seed in (1, 2, 3))
    ask(engine, conversation_about(one, two).ask("Sure?", settings=SHORT))
    request = conversation_about(one, three).ask("Sure?", settings=SHORT)
    answer, read = ask(engine, request)
    assert picture_tokens(engine, one) < read.reused < 2 * picture_tokens(engine, one)
    require_fresh(answer, fresh, request)


def test_an_answer_with_other_tokens_is_processed_again_alone(engines: tuple[Engine, Engine]) -> None:
    """A tokenizer may split an answer's text into other tokens than the model generated."""
    engine, fresh = engines
    picture = drawing((256, 256), 1)
    ask(engine, conversation_about(picture, answer="A CAT.").ask("Sure?", settings=SHORT))
    request = conversation_about(picture, answer="a cat.").ask("Sure?", settings=SHORT)
    answer, read = ask(engine, request)
    assert read.reused > picture_tokens(engine, picture)
    assert read.tokens - read.reused <= 64
    require_fresh(answer, fresh, request)


def test_generated_tokens_are_reused(engines: tuple[Engine, Engine], ascii_only: None) -> None:
    engine, fresh = engines
    request = Conversation().ask("What is it?", settings=TextSettings(max_tokens=30))
    answer, read = ask(engine, request)
    follow_up = Conversation.after(request, answer.text).ask("Sure?", settings=SHORT)
    second, second_read = ask(engine, follow_up)
    assert second_read.reused == read.tokens + len(answer.token_ids) - 1, "the answer did not process its last token"
    require_fresh(second, fresh, follow_up)


@pytest.fixture
def ascii_only(engines: tuple[Engine, Engine]) -> Iterator[None]:
    """Make the model generate letters only: their text encodes to the same tokens again."""
    letters = [engine._runner._tokenizer.encode("abcdefghij") for engine in engines]
    hooks = []
    for engine, ids in zip(engines, letters, strict=True):
        network = engine._runner.model.network
        allowed = torch.full((network.config.transformer.vocabulary,), -1e9)
        allowed[ids] = 0
        hooks.append(network.lm_head.register_forward_hook(lambda _, __, out, allowed=allowed: out + allowed))
    yield
    for hook in hooks:
        hook.remove()


def test_a_changed_system_message_changes_the_answer(engines: tuple[Engine, Engine]) -> None:
    engine, fresh = engines
    picture = drawing((256, 256), 1)
    ask(engine, conversation_about(picture, system="Be brief.").ask("Sure?", settings=SHORT))
    request = conversation_about(picture, system="Be long.").ask("Sure?", settings=SHORT)
    answer, read = ask(engine, request)
    assert read.reused < 24
    require_fresh(answer, fresh, request)


def test_a_shorter_conversation_reuses_its_part(engines: tuple[Engine, Engine]) -> None:
    """As after an undo: the repeated question ends inside the cached tokens."""
    engine, fresh = engines
    first = Conversation().ask("What is it?", (drawing((256, 256), 1),), SHORT)
    answer, _ = ask(engine, first)
    ask(engine, Conversation.after(first, answer.text).ask("Sure?", settings=SHORT))
    repeated, read = ask(engine, first)
    assert read.tokens - read.reused == 1, "the first logits need one token"
    assert repeated.token_ids == answer.token_ids
    require_fresh(repeated, fresh, first)


def test_a_cached_picture_is_not_embedded_again(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    embedded: list[torch.Size] = []
    hook = engine._runner.model.network.und_vision.register_forward_hook(
        lambda _, inputs, __: embedded.append(inputs[0].shape)
    )
    request = conversation_about(drawing((256, 256), 1), drawing((256, 256), 2)).ask("Sure?", settings=SHORT)
    ask(engine, request)
    assert len(embedded) == 2
    ask(engine, Conversation.after(request, "Yes.").ask("So?", (drawing((256, 320), 3),), SHORT))
    hook.remove()
    assert [shape[-1] for shape in embedded] == [256, 256, 256]
    assert embedded[-1][-2] == 320


def test_a_follow_up_keeps_the_place_of_each_picture() -> None:
    one, two, three = (drawing((64, 96), seed) for seed in (1, 2, 3))
    request = Conversation(system="Be brief.").ask("Compare them.", (one, two))
    conversation = Conversation.after(request, "They differ.")
    assert conversation.turns == (
        Message("user", "Image-1:<image>\nImage-2:<image>\nCompare them."),
        Message("assistant", "They differ."),
    )
    follow_up = conversation.ask("And this?", (three,))
    assert follow_up.history == conversation.turns
    assert follow_up.images == (one, two, three)
    assert follow_up.system == "Be brief."
    longer = Conversation.after(follow_up, "That <image> too.")
    assert longer.turns[2:] == (Message("user", "<image>\nAnd this?"), Message("assistant", "That <image> too."))
    assert Conversation.after(longer.ask("Why?"), "So.").turns[:4] == longer.turns
    assert conversation.images == (one, two), "a conversation does not change"


def test_a_conversation_goes_on_behind_an_interleaved_answer(engines: tuple[Engine, Engine]) -> None:
    one, two, drawn, more = (drawing((64, 96), seed) for seed in (1, 2, 3, 4))
    parts = (TextPart("<think>So", (1, 2), True), PicturePart(0, 42, "64x96"), TextPart("Done.", (3,), False))
    request = InterleaveRequest("Draw <image>.", (one, two), system="Be brief.")
    conversation = Conversation.after_interleaved(request, parts, {0: drawn})
    assert conversation.turns == (
        Message("user", "<image>\nDraw <image>."),
        Message("assistant", "<think>SoDone.", (9,)),
    )
    assert (conversation.images, conversation.system) == ((one, two, drawn), "Be brief.")
    follow_up = conversation.ask("And this?", (more,), SHORT)
    another = Conversation.after(follow_up, "Yes.")
    assert another.turns[2] == Message("user", "<image>\nAnd this?")
    assert another.images == (one, two, drawn, more)
    engine, fresh = engines
    ask(engine, conversation.ask("What is it?", settings=SHORT))
    answer, read = ask(engine, follow_up)
    require_fresh(answer, fresh, follow_up)
    assert 0 < read.reused < read.tokens


def test_a_question_without_a_picture_for_its_placeholder_is_refused() -> None:
    conversation = conversation_about(drawing((64, 96), 1))
    with pytest.raises(RequestError, match="2 <image> placeholders for 1 picture"):
        conversation.ask("What about <image>?")
    with pytest.raises(RequestError, match="question is empty"):
        conversation.ask(" ")
