"""The measurements of a server as its clients see it, for `sensenova bench`. Nothing here imports PyTorch."""

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from config.settings import ImageSettings, TextSettings
from config.sizes import Size, format_size
from config.units import count_of
from model.engine import Engine
from model.events import Answer, Notice, Picture, TextToken, Waiting
from model.requests import AnswerRequest, GenerateRequest

CLIENTS = (1, 4, 16)
"""Numbers of clients that draw at the same time."""
PICTURES_ALONE, PICTURES_EACH = 3, 2
"""Number of pictures of a client that draws alone, and of each of several clients."""
QUESTION = "What can you do? Answer in detail."


@dataclass(frozen=True)
class ServerFigure:
    """One measurement of a server.

    Attributes:
        work: the name of the measured work, such as `picture 1024x1024, 10 steps`.
        seconds: the median time, from the request until the client has received it.
        rate: work per minute or second, of all clients together; 0 if it is not meaningful.
    """

    work: str
    seconds: float
    rate: float = 0.0
    unit: Literal["pictures/min", "tokens/s", ""] = ""


@dataclass(frozen=True)
class ServerPlan:
    """The work to measure.

    Attributes:
        sizes: picture sizes; if empty, the first size that the model was trained on.
        steps: number of denoising steps of a picture.
        tokens: maximum number of tokens of an answer.
        clients: numbers of clients that draw at the same time.
        runs: number of pictures that each client draws; None for a few more if it draws alone.
    """

    sizes: Sequence[Size]
    steps: int
    tokens: int
    clients: Sequence[int] = CLIENTS
    runs: int | None = None


@dataclass(frozen=True)
class _Times:
    """Seconds from a request to its first event and to its picture; `first` is None without an event before that."""

    first: float | None
    picture: float


def measure_server(
    engine: Engine, open_another: Callable[[], Engine], plan: ServerPlan
) -> Iterator[ServerFigure | Notice]:
    """Measure a server; yield each result as soon as it is known, and a notice about what cannot be measured.

    Args:
        engine: the server's engine.
        open_another: opens one more connection to the same server.

    Raises:
        SenseNovaError: as for `Engine.run`. All clients then stop.
    """
    for size in plan.sizes or engine.card.recommended.trained_sizes[:1]:
        yield from _measure_pictures(engine, open_another, plan, size)
    yield from _measure_text(engine, plan.tokens)


def _measure_pictures(
    engine: Engine, open_another: Callable[[], Engine], plan: ServerPlan, size: Size
) -> Iterator[ServerFigure | Notice]:
    name = f"{format_size(size)}, {count_of(plan.steps, 'step')}"
    settings = ImageSettings(size=format_size(size), num_steps=plan.steps)
    prompts = (f"A cute cat, number {number}" for number in itertools.count())  # no prefix is reused as a whole
    _draw(engine, GenerateRequest(next(prompts), settings), threading.Event())  # it may compile kernels
    engines = [engine]
    try:
        for count in plan.clients:
            engines += [open_another() for _ in range(count - len(engines))]
            each = plan.runs or (PICTURES_ALONE if count == 1 else PICTURES_EACH)
            requests = [[GenerateRequest(next(prompts), settings) for _ in range(each)] for _ in range(count)]
            began = time.perf_counter()
            times = _draw_at_once(engines, requests)
            rate = 60 * len(times) / (time.perf_counter() - began)
            if count == 1:
                firsts = [one.first for one in times if one.first is not None]
                if firsts:
                    yield ServerFigure(f"request to first event, {name}", statistics.median(firsts))
                else:
                    yield Notice(
                        f"{engine.description} sends nothing before a picture, so there is no time to a first event"
                    )
            median = statistics.median(one.picture for one in times)
            yield ServerFigure(f"picture {name}, {count_of(count, 'client')}", median, rate, "pictures/min")
    finally:
        for other in engines[1:]:
            other.close()


def _draw_at_once(engines: Sequence[Engine], requests: Sequence[Sequence[GenerateRequest]]) -> list[_Times]:
    """Run each list of requests with an engine of its own. If one of them fails, the others stop."""
    stopped = threading.Event()

    def draw_all(engine: Engine, own: Sequence[GenerateRequest]) -> list[_Times]:
        try:
            return [times for request in own if (times := _draw(engine, request, stopped))]
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(len(requests), "client") as threads:
        try:
            # Reading the results in order raises the error of the first client that failed.
            return [times for part in threads.map(draw_all, engines, requests) for times in part]
        finally:
            stopped.set()


def _draw(engine: Engine, request: GenerateRequest, stopped: threading.Event) -> _Times | None:
    """Draw a picture; return None if stopped."""
    began = time.perf_counter()
    first = picture = None
    for event in engine.run(request):
        now = time.perf_counter() - began
        if stopped.is_set():
            return None
        if isinstance(event, Picture):
            picture = now
        elif first is None and picture is None and not isinstance(event, Notice | Waiting):
            first = now
    assert picture is not None
    return _Times(first, picture)


def _measure_text(engine: Engine, tokens: int) -> Iterator[ServerFigure | Notice]:
    request = AnswerRequest(QUESTION, settings=TextSettings(max_tokens=tokens))
    answer: Answer | None = None
    began = time.perf_counter()
    arrivals: list[float] = []
    end = 0.0
    for event in engine.run(request):
        if isinstance(event, TextToken):
            arrivals.append(time.perf_counter() - began)
        if isinstance(event, Answer):
            answer, end = event, time.perf_counter() - began
    assert answer is not None
    if not answer.token_ids:
        yield ServerFigure("answer", end)
        yield Notice(f"{engine.description} does not count the tokens of an answer, so there is no rate")
        return
    yield ServerFigure("question to first token", arrivals[0])
    count = len(arrivals)
    rate = (count - 1) / (arrivals[-1] - arrivals[0]) if arrivals[-1] > arrivals[0] else 0.0
    yield ServerFigure(f"answer of {count_of(count, 'token')}", end, rate, "tokens/s" if rate else "")
