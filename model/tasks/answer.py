"""Describe and chat: a question about text and pictures, answered in text."""

from collections.abc import Iterator

from model.events import Answer, Branch, Event, TextToken
from model.image_files import as_rgb
from model.inputs import prompts
from model.inputs.image_tensors import prepare_image
from model.memory.estimate import Workload
from model.requests import AnswerRequest, Message
from model.sampling.decode import CACHE_GROWTH, make_sampler
from model.tasks.context import TaskContext
from model.tasks.prefixes import build_sequences, caching_prefixes, prefill_branches
from model.tasks.statistics import StatisticsRecorder
from model.tasks.text import write_text


def answer(context: TaskContext, request: AnswerRequest) -> Iterator[Event]:
    """Run a describe or chat request: prefill the conversation, then write the answer."""
    settings, model = request.settings, context.model
    pixels = [prepare_image(as_rgb(image), context.recommended.answer_input) for image in request.images]
    turns = [*request.history, Message("user", request.prompt)]
    texts: dict[Branch, str] = {"condition": prompts.answer_prompt(turns, len(pixels), request.system)}
    sample = make_sampler(settings, model.device)
    sequences = build_sequences(context, texts, pixels)
    yield from context.reserve_memory(Workload(0, (len(sequences["condition"]) + settings.max_tokens,)))
    recorder = StatisticsRecorder(model)
    with caching_prefixes(context.prefix_cache) as cached:
        reserve = min(settings.max_tokens, CACHE_GROWTH)
        yield from prefill_branches(
            context, sequences, pixels, recorder, cached, reserve=reserve, local=set(texts), allow_partial=True
        )
        stop = (context.tokenizer.end_of_turn,)
        prefix = cached["condition"].prefix
        prompt = sequences["condition"].ids.tolist()
        written = yield from write_text(context, prefix, sample, settings.max_tokens, stop, TextToken, recorder, prompt)
    yield Answer(written.text, written.token_ids, written.finish)
    yield recorder.statistics()
