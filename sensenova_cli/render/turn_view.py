"""The view of a turn: it shows the progress of loading, and every event of a request."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

from rich.text import Text

from config.settings import NotifyChoice, PreviewChoice
from config.units import count_of
from model import (
    Answer,
    AnswerRequest,
    DenoisingStep,
    EditRequest,
    Event,
    GenerateRequest,
    InterleavedAnswer,
    InterleaveRequest,
    Notice,
    Picture,
    PrefixRead,
    Request,
    Statistics,
    TextPart,
    TextToken,
    ThinkText,
    ThinkToken,
    Waiting,
)
from sensenova_cli.render.answer import PlainAnswer
from sensenova_cli.render.console import is_animated, print_message, print_note, stderr_console
from sensenova_cli.render.preview import LIVE_SIZE, SCREEN, Preview
from sensenova_cli.render.progress import (
    LiveBytes,
    LiveSteps,
    PlainBytes,
    PlainSteps,
    ProgressView,
    format_seconds,
)
from sensenova_cli.render.run_progress import LiveRunSteps, PlainRunSteps, RunProgress
from sensenova_cli.render.run_signals import RunSignals, SignalledProgress
from sensenova_cli.render.spelling import Spelling, as_flags
from sensenova_cli.render.step_cache import cache_table
from sensenova_cli.render.think import LiveThink, PlainThink
from sensenova_cli.render.timings import timings_table
from sensenova_cli.render.turn_summary import turn_summary
from sensenova_cli.render.waiting import LiveWaiting, PlainWaiting
from sensenova_cli.system.unicode import for_terminal, printable

if TYPE_CHECKING:
    from PIL import Image

    from sensenova_cli.render.markdown_answer import MarkdownAnswer

MARKDOWN_MODULE = "sensenova_cli.render.markdown_answer"


class TurnView:
    """Shows progress and notices on stderr, and streams answers to stdout.

    Args:
        quiet: show nothing on stderr.
        stream_answers: write each answer token to stdout at once.
        show_think: write the think text to stderr; otherwise show only its length.
        print_think: write the think text to stdout when it is complete; that of an interleaved answer as it comes.
        preview: how forming and finished pictures are shown.
        cache_summary: show for each picture how much the step cache reused.
        preview_part: largest part of the screen's rows that a picture takes, as for `Preview.choose`.
        with_sheet: show several pictures of a request on one sheet, numbered from 1; otherwise the caller shows them.
        with_pictures: show finished pictures.
        spelling: how notices spell the settings that they mention.
        notify: how the end of a long run is announced on a terminal.

    Attributes:
        signals: what the terminal shows about runs outside of its text.

    Raises:
        UsageError: pictures cannot be shown in this way; see Preview.choose.
    """

    def __init__(
        self,
        *,
        quiet: bool,
        stream_answers: bool = False,
        show_think: bool = False,
        print_think: bool = False,
        preview: PreviewChoice = "off",
        cache_summary: bool = False,
        preview_part: float = SCREEN,
        with_sheet: bool = True,
        with_pictures: bool = True,
        spelling: Spelling = as_flags,
        notify: NotifyChoice = "off",
    ) -> None:
        self._console = stderr_console()
        self._animated = is_animated()
        self._quiet = quiet
        self.signals = RunSignals(notify, shows_progress=not quiet)
        self._stream_answers = stream_answers
        self._show_think = show_think
        self._print_think = print_think
        self._request: Request | None = None
        self._preview = Preview.choose(self._console, "off" if quiet else preview, part=preview_part)
        self._steps: LiveSteps | PlainSteps | None = None
        self._think: LiveThink | PlainThink | None = None
        self._waiting: LiveWaiting | PlainWaiting | None = None
        self._run: RunProgress | None = None  # of several requests
        self._run_lines: PlainRunSteps | None = None
        self._steps_total = 0  # of the run's requests
        self._steps_ahead = 0  # of the run's requests that have not ended
        self._began_to_draw: float | None = None  # for the first picture of the run
        self._shows_work = False  # whether the engine yields events while it works on this request
        self._times: list[float] = []  # when the request began, and when each picture was finished
        self._previous = self._now = time.perf_counter()  # when the event before this one came, and this one
        self._cache_summary = cache_summary
        self._with_sheet = with_sheet
        self._with_pictures = with_pictures
        self._sheet: list[Image.Image] = []  # the finished pictures of this request, if it makes several
        self._spelling = spelling
        self._answer: PlainAnswer | MarkdownAnswer | None = None
        self._redraws_answer = False
        self._answered = ""
        self._noticed: set[str] = set()
        self._is_prepared = False

    def expect(self, requests: Sequence[Request]) -> None:
        """Announce the requests of a run, so that the time left includes all their pictures."""
        self._steps_ahead = self._steps_total = sum(map(_steps_of, requests))
        self._began_to_draw = None
        self._run = RunProgress.of(requests, time.perf_counter())
        self._run_lines = PlainRunSteps(self._console, self._run) if self._run and not self._animated else None

    def begin_item(self, number: int) -> None:
        """Begin item `number` (from 0) of the run that `expect` has announced."""
        if self._run is not None:
            self._run.begin_request(number)

    def end_run(self) -> None:
        """Say how long a run of several requests took."""
        if self._run is not None:
            now = time.perf_counter()
            self.muted(f"{count_of(self._run.count, 'picture')} in {format_seconds(self._run.seconds(now))}")

    def prepare(self, requests: Sequence[Request]) -> None:
        """Import what the display of an answer needs, in a thread. Otherwise the first token would wait for it."""
        writes = any(isinstance(request, AnswerRequest | InterleaveRequest) for request in requests)
        if self._stream_answers and writes and self._shows_markdown and not self._is_prepared:
            self._is_prepared = True
            Thread(target=import_module, args=(MARKDOWN_MODULE,), name="import", daemon=True).start()

    @property
    def is_quiet(self) -> bool:
        """Whether the view shows nothing on stderr."""
        return self._quiet

    def notice(self, text: str) -> None:
        """Print a notice: something worth knowing that is not an error."""
        if not self._quiet:
            print_note(self._console, self._spelling(text))

    def muted(self, text: str) -> None:
        """Print a dim line of little importance."""
        if not self._quiet:
            print_message(self._console, Text(printable(self._spelling(text)), style="dim"))

    def timings(self, seconds: Mapping[str, float]) -> None:
        """Print the seconds of each phase of the run, also if the view is quiet: the user asked for them."""
        self._console.print(timings_table(seconds))

    @contextmanager
    def bytes_progress(self, title: str) -> Iterator[ProgressView]:
        """Show a bar for reading or downloading while the context is open."""
        view: ProgressView = _NoProgress()
        if not self._quiet:
            view = (LiveBytes if self._animated else PlainBytes)(self._console, printable(title))
        try:
            yield SignalledProgress(view, self.signals)
        finally:
            view.close()
            self.signals.progress(0, 0)

    @contextmanager
    def showing(self, request: Request) -> Iterator[None]:
        """Show the events of one request inside this context; at its end, remove the bars and end the answer's line."""
        self._request, self._answered = request, ""
        if self._steps_ahead < _steps_of(request):  # a session's request is a run of its own
            self.expect([request])
        self._shows_work, self._times = False, [time.perf_counter()]
        try:
            yield
        finally:
            self._steps_ahead -= _steps_of(request)
            self._close_views()
            self._end_answer_line()
            self._show_sheet()

    def preview_request(self) -> tuple[int, int]:
        """Return a request's `preview_every` and `preview_size` for this screen; (0, 0) if it shows no previews."""
        is_shown = self._animated and not self._quiet and self._preview.live() is not None
        return (1, LIVE_SIZE) if is_shown else (0, 0)

    @property
    def is_live(self) -> bool:
        """Whether a bar, think text or an answer is redrawn in place. The cursor is then on its last row."""
        bars = (self._steps, self._think, self._waiting)
        return self._redraws_answer or any(isinstance(view, LiveSteps | LiveThink | LiveWaiting) for view in bars)

    def event(self, event: Event) -> None:
        """Show one event. Finished pictures are shown by `after_sinks`."""
        self._previous, self._now = self._now, time.perf_counter()
        if not isinstance(event, Notice | Waiting):
            self._end_waiting()
            self._shows_work |= isinstance(event, PrefixRead | DenoisingStep | TextToken)
        match event:
            case Notice():
                if isinstance(self._request, InterleaveRequest):
                    self._pause_text()  # text is redrawn on stdout, and would be repeated below a notice on stderr
                self._notice_once(event.text)
            case Waiting():
                self._show_waiting(event.position)
            case PrefixRead() if not self._will_think:
                self._show_first_bar(0)
            case ThinkToken() if self._prints_think_tokens:
                self._write(event.text)
            case ThinkToken() if not self._quiet:
                self._end_answer_line()
                self._thinking().add(event.text)
            case ThinkText() if isinstance(self._request, InterleaveRequest):
                self._end_interleaved_thinking(event)
            case ThinkText():
                self._end_thinking(event)
                if event.token_ids:  # otherwise the whole picture has arrived with it
                    self._show_first_bar(0)
            case DenoisingStep() if not self._quiet:
                self._pause_text()
                self._steps_view(event.index, event.count).update(event.step, event.steps, event.preview)
                self._signal_progress(event)
            case Picture():
                self._pause_text()
                self._close_views()
                self._times.append(time.perf_counter())
            case TextToken() if self._stream_answers:
                self._write(event.text)
            case Answer():
                self._end_answer(event)
            case InterleavedAnswer():
                self._end_interleaved(event)
            case Statistics():
                self._close_views()
                if self._run is None:
                    self.muted(turn_summary(event))

    def after_sinks(self, event: Event) -> None:
        """Show a finished picture below the path that a sink has printed for it."""
        if isinstance(event, Picture):
            is_interleaved = isinstance(self._request, InterleaveRequest)
            if not self._with_pictures:
                pass
            elif is_interleaved or event.count == 1:
                self._preview.show(event.image)
            elif self._with_sheet:
                self._sheet.append(event.image)
                if event.index + 1 == event.count:
                    self._show_sheet()
            if self._cache_summary and not self._quiet:
                self._show_cache_summary(event)
            if event.index + 1 < event.count and self._shows_work and not is_interleaved:
                self._show_first_bar(event.index + 1)

    def _show_sheet(self) -> None:
        """Show the finished pictures of a request for several, also if it has been cancelled."""
        if self._sheet:
            self._preview.show_several(self._sheet)
        self._sheet = []

    def _show_cache_summary(self, picture: Picture) -> None:
        if picture.caching is not None:
            self._console.print(cache_table(picture.caching))
        else:
            self._notice_once("no cache summary: `cache` is off")

    def _notice_once(self, text: str) -> None:
        """Print a notice once, even if several pictures cause it."""
        if text not in self._noticed:
            self._noticed.add(text)
            self.notice(text)

    def _show_first_bar(self, index: int) -> None:
        """Show a bar at 0 while a picture's first step runs, which can take long."""
        if isinstance(self._request, GenerateRequest | EditRequest) and not self._quiet:
            settings = self._request.settings
            self._steps_view(index, settings.num_images).update(0, settings.num_steps)

    def _show_waiting(self, position: int) -> None:
        """Show the time since the last picture, unless the engine shows its work itself."""
        if position and not self._animated:
            noun = "request is" if position == 1 else "requests are"
            self._notice_once(f"waiting: {position} {noun} before this one on the server")
        if self._quiet or self._shows_work:
            return
        if self._waiting is None:
            made = len(self._times) - 1
            title = "answer"
            if isinstance(self._request, GenerateRequest | EditRequest):
                title = _picture_title(made, self._request.settings.num_images)
            expected = (self._times[-1] - self._times[0]) / made if made else None
            view = LiveWaiting if self._animated else PlainWaiting
            self._waiting = view(self._console, title, self._times[-1], expected)
        self._waiting.update(position)

    def _end_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
        self._waiting = None

    @property
    def _will_think(self) -> bool:
        return isinstance(self._request, GenerateRequest | EditRequest) and self._request.settings.think

    def _steps_view(self, index: int, count: int) -> LiveSteps | PlainSteps:
        if self._steps is None and self._run is not None:
            self._run.begin_picture(index)
            self._steps = self._run_lines or LiveRunSteps(self._console, self._run, self._preview.live())
        if self._steps is None:
            title = _picture_title(index, count)
            if isinstance(self._request, InterleaveRequest):  # the model decides how many pictures follow
                title, later = f"picture {index + 1} of the answer", 0
            else:
                each = _steps_of(self._request) // count
                later = max(0, self._steps_ahead - (index + 1) * each)
            if self._animated:
                self._steps = LiveSteps(self._console, title, self._preview.live(), later)
            else:
                self._began_to_draw = self._began_to_draw or self._previous
                self._steps = PlainSteps(self._console, title, later, self._began_to_draw, self._previous)
        return self._steps

    def _signal_progress(self, event: DenoisingStep) -> None:
        if self._run is not None:
            self.signals.progress(self._run.done, self._run.total)
        else:
            before = self._steps_total - self._steps_ahead
            self.signals.progress(before + event.index * event.steps + event.step, self._steps_total)

    def _thinking(self) -> LiveThink | PlainThink:
        if self._think is None:
            view = LiveThink if self._animated else PlainThink
            self._think = view(self._console, hidden=not self._show_think)
        return self._think

    def _end_thinking(self, event: ThinkText) -> None:
        if self._think is not None:
            words = count_of(len(event.text.split()), "word")
            timed = f"{event.seconds:.1f} s ({count_of(len(event.token_ids), 'token')})"
            self._think.close(f"thought for {timed if event.token_ids else words}")
            self._think = None
        if self._print_think:
            print(for_terminal(event.text.strip()), flush=True)
        if event.finish == "length":
            self.notice("the think text reached its limit and was cut off; raise the limit with `max_think_tokens`")

    @property
    def _prints_think_tokens(self) -> bool:
        return self._print_think and self._stream_answers and isinstance(self._request, InterleaveRequest)

    def _pause_text(self) -> None:
        """End the lines of text that a picture interrupts."""
        self._end_answer_line()
        if self._think is not None:
            self._think.pause()
            self._think = None

    def _end_interleaved_thinking(self, event: ThinkText) -> None:
        if self._prints_think_tokens:
            self._end_answer_line()
        elif not self._quiet:
            self._thinking().close(f"thought for {len(event.token_ids)} tokens, {event.seconds:.1f} s")
            self._think = None

    def _end_interleaved(self, event: InterleavedAnswer) -> None:
        self._end_answer_line()
        last = next((part for part in reversed(event.parts) if isinstance(part, TextPart)), None)
        ends_thinking = last is not None and last.thinking and not last.text.endswith("</think>")
        match event.finish:
            case "length" if ends_thinking:
                self.notice(
                    "the answer reached its limit inside its thinking and was cut off; raise the limit with "
                    "`max_tokens`, or use `think=false`"
                )
            case "length":
                self.notice("the answer reached its limit and was cut off; raise the limit with `max_tokens`")
            case "images":
                self.notice("the model wanted to draw more pictures; raise their limit with `max_images`")
            case "end" if ends_thinking:
                self.notice("the model did not close its thinking: there is no text outside of it")

    def _end_answer(self, event: Answer) -> None:
        if self._stream_answers:
            # A token's text leaves out an incomplete character; the answer contains its bytes.
            if event.text.startswith(self._answered):
                self._write(event.text[len(self._answered) :])
            self._end_answer_line()
        if event.finish == "length":
            self.notice("the answer reached its limit and was cut off; raise the limit with `max_tokens`")

    def _write(self, text: str) -> None:
        if self._answer is None:
            self._answer = self._new_answer()
        self._answered += text
        self._answer.add(text)

    def _new_answer(self) -> "PlainAnswer | MarkdownAnswer":
        if not self._shows_markdown:
            return PlainAnswer()
        from sensenova_cli.render.markdown_answer import MarkdownAnswer  # see `prepare`

        self._redraws_answer = True
        return MarkdownAnswer()

    @property
    def _shows_markdown(self) -> bool:
        return sys.stdout.isatty() and self._animated

    def _end_answer_line(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._answer = None
        self._redraws_answer = False
        self._answered = ""

    def _close_views(self) -> None:
        self._end_waiting()
        if self._steps is not None:
            self._steps.close()
        if self._think is not None:
            self._think.stop()
        self._steps = self._think = None


def _steps_of(request: Request | None) -> int:
    """Return the number of denoising steps of all pictures of a request."""
    if not isinstance(request, GenerateRequest | EditRequest):
        return 0
    return request.settings.num_images * request.settings.num_steps


def _picture_title(index: int, count: int) -> str:
    return f"picture {index + 1} of {count}" if count > 1 else "picture"


class _NoProgress:
    """A progress view that shows nothing."""

    def update(self, done: int, total: int) -> None: ...

    def close(self) -> None: ...
