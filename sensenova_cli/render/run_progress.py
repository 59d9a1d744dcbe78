"""The progress of a run of several requests, as one bar or as a line every quarter of the run."""

import time
from collections.abc import Sequence
from itertools import accumulate

from PIL import Image
from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.text import Text

from config.sizes import parse_size
from config.units import count_of
from model import EditRequest, GenerateRequest, Request
from sensenova_cli.render.preview import LivePreview
from sensenova_cli.render.progress import NARROW, LiveSteps, PlainSteps, format_seconds, time_left
from sensenova_cli.system.unicode import printable

DEFAULT_AREA = 2048 * 2048
"""Pixels of a picture whose size the model chooses."""
FIGURES_WIDTH = 31
"""Columns of the step and the time left, beside which the title must fit."""


class RunProgress:
    """How far a run of several requests is.

    The work of a step is taken as proportional to the picture's pixels. The time that is left follows from the time
    since the start of the run, which also has the prefills and the writing of files in it.

    Args:
        requests: all requests of the run, in order.
        start: value of `time.perf_counter` when the run began.

    Attributes:
        done, total: work that is done, and work of the whole run, in steps times pixels.
        step, steps: steps of the running picture that are done, and all of them.
    """

    def __init__(self, requests: Sequence[GenerateRequest | EditRequest], start: float) -> None:
        self._requests = requests
        self._start = start
        seeds = {each.settings.seed for each in requests}
        self._has_several_seeds = len(seeds) > 1 or any(each.settings.num_images > 1 for each in requests)
        self._pictures = list(accumulate((each.settings.num_images for each in requests), initial=0))
        self._work = list(accumulate(map(_work, requests), initial=0))
        self._index = 0  # the number of the running request
        self._picture = 0  # the number of the running picture in its request
        self.step = self.steps = 0
        self.done, self.total = 0, self._work[-1]

    @classmethod
    def of(cls, requests: Sequence[Request], start: float) -> "RunProgress | None":
        """Return the progress of a run that makes pictures for several requests, else None."""
        drawing = [each for each in requests if isinstance(each, GenerateRequest | EditRequest)]
        return cls(drawing, start) if len(requests) > 1 and len(drawing) == len(requests) else None

    @property
    def count(self) -> int:
        """Number of pictures of the run."""
        return self._pictures[-1]

    @property
    def title(self) -> str:
        """The number, the seed if there are several, and the prompt of the running picture, such as `3 of 40, seed 7:
        a red cat`."""
        request = self._requests[self._index]
        seed = f", seed {request.settings.seed + self._picture}" if self._has_several_seeds else ""
        return f"{self.number} of {self.count}{seed}: {printable(' '.join(request.prompt.split()))}"

    @property
    def number(self) -> int:
        """Number of the running picture in the run, from 1."""
        return self._pictures[self._index] + self._picture + 1

    def begin_request(self, index: int) -> None:
        """Begin request `index` (from 0). What those before have not done, because they failed, counts as done."""
        self._index = index
        self.begin_picture(0)

    def begin_picture(self, index: int) -> None:
        """Begin picture `index` (from 0) of the running request."""
        self._picture = index
        self.update(0, self._requests[self._index].settings.num_steps)

    def update(self, step: int, steps: int) -> None:
        """Take note of `step` finished steps, of `steps`, of the running picture."""
        self.step, self.steps = step, steps
        request = self._requests[self._index]
        share = (self._picture + step / steps) / request.settings.num_images
        self.done = self._work[self._index] + round(share * _work(request))

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds that the run still needs; None while they are not known."""
        if not self.done or self.done == self._work[0]:
            return None
        return (now - self._start) / self.done * (self.total - self.done)

    def seconds(self, now: float) -> float:
        """Return the seconds since the start of the run."""
        return now - self._start


class LiveRunSteps(LiveSteps):
    """A bar of the whole run, with the running picture's number, prompt and steps, and the forming picture."""

    bar_width = 20

    def __init__(self, console: Console, run: RunProgress, picture: LivePreview | None = None) -> None:
        self._run = run
        beside = FIGURES_WIDTH + (self.bar_width + 1 if console.width >= NARROW else 0)
        title = Text(run.title)
        title.truncate(max(10, console.width - beside), overflow="ellipsis")
        super().__init__(console, title.plain, picture, figures=[_Step(run)], left=_Left(run))

    def update(self, done: int, total: int, preview: Image.Image | None = None) -> None:
        """Show that `done` of `total` steps of the running picture are done."""
        self._run.update(done, total)
        super().update(self._run.done, self._run.total, preview)


class PlainRunSteps(PlainSteps):
    """A line at the start of a run, at each quarter of it and at its end."""

    def __init__(self, console: Console, run: RunProgress) -> None:
        now = time.perf_counter()
        super().__init__(console, count_of(run.count, "picture"), began=now, start=now)
        self._run = run
        self._is_announced = True
        self._held.append("")

    def update(self, done: int, total: int, preview: Image.Image | None = None) -> None:
        """Take note that `done` of `total` steps of the running picture are done."""
        self._run.update(done, total)
        if self._run.done:
            super().update(self._run.done, self._run.total)

    def _figures(self, done: int, total: int, seconds: float) -> str:
        now = time.perf_counter()
        if done == total:
            return f"{self._run.number} of {self._run.count}, {format_seconds(self._run.seconds(now))}"
        left = self._run.seconds_left(now) or 0.0
        return f"{self._run.number} of {self._run.count}, {time_left(left)}"


class _Step(ProgressColumn):
    """A column with the steps of the running picture."""

    def __init__(self, run: RunProgress) -> None:
        super().__init__()
        self._run = run

    def render(self, task: Task) -> Text:
        return Text(f"step {self._run.step}/{self._run.steps}", style="progress.download", no_wrap=True)


class _Left(ProgressColumn):
    """A column with the time that the run still needs."""

    max_refresh = 0.5

    def __init__(self, run: RunProgress) -> None:
        super().__init__()
        self._run = run

    def render(self, task: Task) -> Text:
        left = self._run.seconds_left(time.perf_counter())
        return Text("" if left is None else time_left(left), style="cyan", no_wrap=True)


def _work(request: GenerateRequest | EditRequest) -> int:
    settings = request.settings
    size = parse_size(settings.size)
    return settings.num_images * settings.num_steps * (size[0] * size[1] if size else DEFAULT_AREA)
