"""What a session works on: its state on disk, the resident model, and the turns that are made of both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from config.errors import SenseNovaError
from config.sources import Layers, Resolved
from model import Conversation, Event, Picture, PrefixRead, Statistics
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.spelling import as_session
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.repl.line_options import merged
from sensenova_cli.repl.resident_model import ResidentModel
from sensenova_cli.sessions.entries import SessionPicture
from sensenova_cli.sessions.session import Session
from sensenova_cli.system.interrupts import SignalStop
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.one_shot_sinks import PictureFileSink
from sensenova_cli.turns.run_turn import Frontend, Outcome, Sink, run_turns
from sensenova_cli.turns.session_sinks import SessionAnswerSink, SessionPictureSink
from sensenova_cli.turns.tasks import AnswerTask, PictureTask, Task


class MeasurementSink:
    """A sink that remembers what the last request measured.

    Attributes:
        statistics: of the last request, or None.
        prefix_tokens, reused_tokens: of the last request's prefixes, and those that earlier requests had computed.
    """

    def __init__(self) -> None:
        self.statistics: Statistics | None = None
        self.prefix_tokens = self.reused_tokens = 0

    def begin(self, turn: Turn) -> None:
        """A new request: nothing is measured yet."""
        self.statistics = None
        self.prefix_tokens = self.reused_tokens = 0

    def take(self, event: Event) -> None:
        """As `Sink.take`."""
        if isinstance(event, PrefixRead):
            self.prefix_tokens += event.tokens
            self.reused_tokens += event.reused
        if isinstance(event, Statistics):
            self.statistics = event

    def end(self, outcome: Outcome) -> None:
        """Nothing is left to be done."""


class SessionTurns:
    """A session as a face: its lines become turns with the resident model, recorded on disk.

    Args:
        session: where turns are recorded.
        start: the flags that the program was started with.
        made: called with each finished picture and its file.
        system: system message of answers.
        interactive: whether answers are read on a screen.

    Attributes:
        resident_model: the resident model.
        measurements: what the last request measured.
        set_by_commands: settings that commands of this session have changed: model and LoRAs.
        problem: why the settings of a session that is continued cannot be used; every turn says so until they are
            mended.
    """

    def __init__(
        self,
        session: Session,
        start: Flags,
        made: Callable[[SessionPicture, str], None],
        *,
        system: str,
        interactive: bool,
    ) -> None:
        self.session = session
        self.measurements = MeasurementSink()
        self.problem: SenseNovaError | None = None
        self.set_by_commands: set[str] = set()
        self._start = start
        self._made = made
        self._system = system
        self._interactive = interactive
        self._current: tuple[object, Resolved] | None = None
        try:
            layers = self._merged(Flags({})).layers()
        except SenseNovaError as problem:
            self.problem = problem
            layers = start.layers()
        self.resident_model = self._load(layers)

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.resident_model.name

    @property
    def profile(self) -> str | None:
        """The profile that turns are made with, unless their line names another one."""
        return self._merged(Flags({})).profile

    def check(self, settings: Mapping[str, Any], profile: str | None) -> Resolved:
        """All settings as they would be if the session had these; errors as for config.sources.resolve."""
        return merged(self._start, settings, profile, Flags({})).layers().resolve(self.resident_model.recommended)

    def resolve(self) -> Resolved:
        """All settings of a turn whose line has no flags; errors as for config.sources.resolve."""
        state = self.session.state
        return self.check(state.settings, state.profile)

    def current(self) -> Resolved:
        """As `resolve`, but read again only after the session or the model has changed: for what is drawn often."""
        state = self.session.state
        known = (state.settings, state.profile, self._start, self.resident_model.recommended)
        if self._current is None or self._current[0] != known:
            self._current = known, self.resolve()
        return self._current[1]

    def use_model(self, name: str) -> None:
        """Let the model go, and load another one in the background."""
        self._start = replace(self._start, settings={**self._start.settings, "model": name})
        self.set_by_commands.add("model")
        self.reload()

    def use_loras(self, text: str) -> None:
        """Replace the model's LoRAs, or load the model with them if it could not be loaded before.

        Errors as for `ResidentModel.use_loras`.
        """
        start = replace(self._start, settings={**self._start.settings, "lora": text})
        state = self.session.state
        layers = merged(start, state.settings, state.profile, Flags({})).layers()
        if self.resident_model.has_failed:  # perhaps because of a LoRA
            self._start = start
            self.reload()
        else:
            self.resident_model.use_loras(layers.load.lora, self._view(layers))
            self._start = start
        self.set_by_commands.add("lora")

    def follow_settings(self) -> bool:
        """Load the model again if the session's load settings have changed; returns whether they have.

        Raises:
            SettingsError: the session's settings cannot be used.
        """
        if self._merged(Flags({})).layers().load == self.resident_model.settings:
            return False
        self.reload()
        return True

    def reload(self) -> None:
        """Let the model go, and load the one that the session's settings name; errors as for `follow_settings`."""
        layers = self._merged(Flags({})).layers()
        self.resident_model.discard()
        self.resident_model = self._load(layers, after=self.resident_model)

    def draw(self, kind: PictureKind, text: str, inputs: Sequence[int], line: Flags) -> None:
        """Make pictures, and select the first one.

        Args:
            inputs: numbers of the pictures that are edited.

        Raises:
            SenseNovaError: the turn failed; it is recorded all the same if it began.
            KeyboardInterrupt: it was cancelled, likewise.
        """
        flags = self._merged(line)
        layers = flags.layers()
        view = self._view(layers)
        task = PictureTask(
            kind,
            Prompt(text),
            tuple(self.session.read(number) for number in inputs),
            width=flags.width,
            height=flags.height,
            # Edits that follow one another take the next seed each. A chosen seed is warned about instead.
            replaces_seed_silently="seed" not in flags.settings,
        )

        def open_sinks(turns: Sequence[Turn]) -> list[Sink]:
            loaded = self.resident_model.settings
            kept = SessionPictureSink(self.session, kind, loaded, line, inputs, self._made)
            if not line.settings.get("output"):
                return [kept]

            def note(picture: Picture, path: Path | None, turn: Turn, seconds: float) -> None:
                view.notice(f"picture {kept.pictures[-1].number} is in {path}, too")

            count = turns[0].settings.num_images
            return [kept, PictureFileSink(_output(layers.output.output, count, line), loaded, count, 0, note)]

        self._run(task, layers, view, open_sinks)

    def answer(
        self, kind: Literal["describe", "chat"], text: str, images: Sequence[int], line: Flags, *, continues: bool
    ) -> None:
        """Answer a question; errors as for `draw`.

        Args:
            images: numbers of the pictures that are shown with it, besides those of the conversation.
            continues: whether it follows the conversation so far.
        """
        layers = self._merged(line).layers()
        conversation = self._conversation() if continues else Conversation(system=self._system)
        shown = tuple(self.session.read(number).image for number in images)
        system = conversation.system

        def open_sinks(turns: Sequence[Turn]) -> list[Sink]:
            loaded = self.resident_model.settings
            return [SessionAnswerSink(self.session, kind, loaded, line, images, system=system, continues=continues)]

        self._run(AnswerTask(kind, text, shown, conversation), layers, self._view(layers), open_sinks)

    def _run(
        self, task: Task, layers: Layers, view: TurnView, open_sinks: Callable[[Sequence[Turn]], list[Sink]]
    ) -> None:
        self._reload_after_failure()

        def with_measured(turns: Sequence[Turn]) -> list[Sink]:
            return [self.measurements, *open_sinks(turns)]

        run_turns([task], layers, self.resident_model, Frontend(view, with_measured, SignalStop()))

    def _conversation(self) -> Conversation:
        """The conversation so far, its pictures read from the session."""
        answered = self.session.state.now.conversation
        conversation = Conversation(system=answered[0].system if answered else self._system)
        for each in answered:
            images = tuple(self.session.read(number).image for number in each.inputs)
            conversation = Conversation.after(conversation.ask(each.prompt, images), each.answer)
        return conversation

    def _merged(self, line: Flags) -> Flags:
        state = self.session.state
        return merged(self._start, state.settings, state.profile, line)

    def _view(self, layers: Layers) -> TurnView:
        shown = layers.output
        return TurnView(
            quiet=self._start.quiet,
            stream_answers=True,
            show_think=not (shown.hide_think or shown.print_think),
            print_think=shown.print_think,
            preview=shown.preview if self._interactive else "off",
            cache_summary=shown.enable_cache_dit_summary,
            show_each=False,
            spelling=as_session,
        )

    def _reload_after_failure(self) -> None:
        """A model that could not be loaded before, or was lost, is tried once more."""
        if self.resident_model.has_failed:
            self.reload()

    def _load(self, layers: Layers, after: ResidentModel | None = None) -> ResidentModel:
        return ResidentModel(layers.load, layers.values.get("size", "auto"), after)


def _output(output: str | None, count: int, line: Flags) -> PictureWriter:
    """Where a line wants its pictures besides the session."""
    if output == "-":
        raise UsageError("a session's stdout is for paths and answers", "name a file with -o")
    return PictureWriter.prepare(output, force=line.force, stdout_is_terminal=True, count=count)
