"""The turns of a session. They run with the resident model and are logged on disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from config.errors import SenseNovaError
from config.settings import OutputSettings
from config.sources import Layers, Resolved
from config.validation import check_values
from model import Conversation, InterleaveRequest, Picture, PicturePart, TextPart, has_room
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.outputs.picture_names import ANSWER_NAME, DEFAULT_NAME, PictureForm
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.preview import HALF
from sensenova_cli.render.spelling import as_session
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.repl.resident_model import ResidentModel
from sensenova_cli.repl.session_notation import SESSION_NOTATION
from sensenova_cli.sessions.entries import AnswerTurn, InterleaveTurn, PictureTurn, SessionPicture
from sensenova_cli.sessions.session import Session
from sensenova_cli.system.interrupts import SignalStop
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.downloads import ask_before_session
from sensenova_cli.turns.drawn_seed import tell_drawn_seed
from sensenova_cli.turns.enhancement import Edit
from sensenova_cli.turns.log_sink import logged
from sensenova_cli.turns.model_source import require_usable
from sensenova_cli.turns.one_shot_sinks import PictureFileSink
from sensenova_cli.turns.run_turn import Frontend, Sink, run_turns
from sensenova_cli.turns.session_sinks import (
    MeasurementSink,
    SessionAnswerSink,
    SessionInterleaveSink,
    SessionPictureSink,
)
from sensenova_cli.turns.tasks import AnswerTask, InterleaveTask, PictureTask, Task

NO_PROFILE = "none"
"""The profile of a session that uses no profile, even if the program was started with one."""
NO_OPTIONS = Flags({})


class SessionTurns:
    """Runs the turns of a session and manages its resident model.

    Args:
        session: the session that logs the turns.
        start: the flags that the program was started with.
        on_picture: called with each finished picture and its file.
        system: system message of answers.
        interactive: whether the session runs in a terminal, not as a script.

    Attributes:
        resident_model: the model that is loaded or being loaded.
        measurements: measurements of the last request.
        set_by_commands: settings that commands other than /set have changed: model and LoRAs.
        edit_prompt: lets the user change a prompt that a model has rewritten; None for no chance to.
        settings_error: why the settings of a continued session are invalid. Every turn raises it until the user
            corrects the settings.
    """

    def __init__(
        self,
        session: Session,
        start: Flags,
        on_picture: Callable[[SessionPicture, str], None],
        *,
        system: str,
        interactive: bool,
    ) -> None:
        self.session = session
        self.measurements = MeasurementSink()
        self.settings_error: SenseNovaError | None = None
        self.edit_prompt: Edit | None = None
        self.set_by_commands: set[str] = set()
        self._start = start
        self._on_picture = on_picture
        self._system = system
        self._interactive = interactive
        self._current: tuple[object, Resolved] | None = None
        self._has_noted_experiment = False
        try:
            layers = self._flags().layers()
        except SenseNovaError as error:
            self.settings_error = error
            layers = start.layers()
        self.resident_model = self._load(layers)

    @property
    def profile(self) -> str | None:
        """The profile of turns whose line has no `--profile`."""
        return _choose_profile(self._start, self.session.state.profile)

    def resolve_with(self, settings: Mapping[str, Any], profile: str | None) -> Resolved:
        """Merge all settings, with these as the session's settings; errors as for config.sources.resolve."""
        layers = merge_flags(self._start, settings, profile, NO_OPTIONS).layers()
        return layers.resolve(self.resident_model.recommended)

    def resolve(self) -> Resolved:
        """Merge all settings for a line without options; errors as for config.sources.resolve."""
        state = self.session.state
        return self.resolve_with(state.settings, state.profile)

    def current_settings(self) -> Resolved:
        """Return the result of `resolve`, cached until the session or the model changes. The toolbar calls it often."""
        state = self.session.state
        known = (state.settings, state.profile, self._start, self.resident_model.recommended)
        if self._current is None or self._current[0] != known:
            self._current = known, self.resolve()
        return self._current[1]

    def use_model(self, name: str) -> None:
        """Load another model, and discard the one before.

        The model before stays loaded meanwhile, if there is memory for both. Otherwise it is unloaded first, and loaded
        again if the other one cannot be loaded.

        Raises:
            SenseNovaError: the other model cannot be loaded. The session keeps the model before.
            KeyboardInterrupt: the user pressed Ctrl-C; as above.
        """
        before = self.resident_model
        own = {"weights": "off"} if before.settings.weights_file else {}  # they belong to the model before
        start = replace(self._start, settings={**self._start.settings, "model": name, **own})
        layers = self._flags(start=start).layers()
        view = self._view(layers)
        require_usable(layers.load)
        if ask_before_session(layers.load).yes:
            start = replace(start, settings={**start.settings, "yes": True})
            layers = self._flags(start=start).layers()
        size = layers.values.get("size", "auto")
        keeps = before.is_loaded and has_room(layers.load, size)
        if before.is_loaded and not keeps:
            view.notice(f"memory is too small for two models, so {before.name} is unloaded first")
        if not keeps:
            before.discard()
        other = self._load(layers, after=before)
        try:
            other.open((), view)
        except BaseException:
            other.discard()
            if not keeps:
                view.notice(f"loading {before.name} again")
                self.resident_model = ResidentModel(before.settings, size, after=other)
            raise
        before.discard()
        other.use_freed_memory()
        self.resident_model, self._start = other, start
        self.set_by_commands.add("model")

    def use_loras(self, text: str) -> None:
        """Replace the model's LoRAs; if the model could not be loaded before, load it with them.

        Errors as for `ResidentModel.use_loras`.
        """
        start = replace(self._start, settings={**self._start.settings, "lora": text})
        layers = self._flags(start=start).layers()
        if self.resident_model.has_failed:  # a LoRA may be the reason
            self._start = start
            self.reload()
        else:
            self.resident_model.use_loras(layers.load.lora, self._view(layers))
            self._start = start
        self.set_by_commands.add("lora")

    def reload_if_changed(self) -> bool:
        """Reload the model if the session's load settings have changed; return whether they have.

        Raises:
            SettingsError: the session's settings are invalid.
        """
        if self._flags().layers().load == self.resident_model.settings:
            return False
        self.reload()
        return True

    def reload(self) -> None:
        """Discard the model, and load the model of the settings; errors as for `reload_if_changed`."""
        layers = self._flags().layers()
        self.resident_model.discard()
        self.resident_model = self._load(layers, after=self.resident_model)

    def draw(
        self,
        kind: PictureKind,
        text: str,
        inputs: Sequence[int],
        line_options: Flags,
        repeats: PictureTurn | None = None,
    ) -> None:
        """Make pictures, and select the first one.

        Args:
            inputs: numbers of the pictures that are edited.
            repeats: the earlier turn whose prompt is used as it is; None for a new prompt, which may be rewritten.

        Raises:
            SenseNovaError: the turn failed. It is logged if it had begun.
            KeyboardInterrupt: the turn was cancelled. It is logged if it had begun.
        """
        flags = self._flags(line_options)
        layers = flags.layers()
        view = self._view(layers)
        tell_drawn_seed(view, line_options)
        task = PictureTask(
            kind,
            Prompt(text),
            tuple(self.session.read(number) for number in inputs),
            width=flags.width,
            height=flags.height,
            # Each edit of an edit takes the next seed. Only a seed that the user chose deserves a warning.
            replaces_seed_silently="seed" not in flags.settings,
            name=(repeats.original_prompt or "") if repeats else "",
            keeps_prompt=repeats is not None,
            original_prompt=repeats.original_prompt if repeats else None,
            enhanced_by=repeats.enhanced_by if repeats else None,
        )

        def open_sinks(turns: Sequence[Turn]) -> list[Sink]:
            source = self.resident_model
            sink = SessionPictureSink(self.session, kind, source, line_options, inputs, self._on_stored)
            count = turns[0].settings.num_images
            return [sink, *self._copies(view, layers, count, line_options, lambda: sink.pictures[-1])]

        self._run(task, layers, view, open_sinks)

    def answer(
        self,
        kind: Literal["describe", "chat"],
        text: str,
        images: Sequence[int],
        line_options: Flags,
        *,
        continues: bool,
    ) -> None:
        """Answer a question; errors as for `draw`.

        Args:
            images: numbers of the pictures shown with the question, in addition to those of the conversation.
            continues: whether the question follows the conversation so far.
        """
        layers = self._flags(line_options).layers()
        view = self._view(layers)
        answered = self.session.state.now.conversation if continues else ()
        conversation, _ = self._conversation(answered, view)
        shown = [self.session.read(number) for number in images]
        system = conversation.system

        def open_sinks(turns: Sequence[Turn]) -> list[Sink]:
            source = self.resident_model
            return [
                SessionAnswerSink(self.session, kind, source, line_options, images, system=system, continues=continues)
            ]

        pictures = tuple(each.image for each in shown)
        files = tuple(each.source.path for each in shown)
        task = AnswerTask(kind, text, pictures, conversation, image_files=files)
        self._run(task, layers, view, open_sinks)

    def interleave(self, text: str, images: Sequence[int], line_options: Flags, *, follows: Sequence[int]) -> None:
        """Answer in text and pictures, and select the first picture; other arguments and errors as for `answer`.

        Args:
            follows: numbers of the earlier turns in the answer's conversation.
        """
        flags = self._flags(line_options)
        layers = flags.layers()
        view = self._view(layers)
        tell_drawn_seed(view, line_options)
        conversation, earlier = self._conversation(self.session.state.conversation_of(follows), view)
        task = InterleaveTask(
            Prompt(text),
            tuple(self.session.read(number) for number in images),
            conversation,
            earlier,
            width=flags.width,
            height=flags.height,
            replaces_seed_silently="seed" not in flags.settings,
        )

        def open_sinks(turns: Sequence[Turn]) -> list[Sink]:
            source = self.resident_model
            sink = SessionInterleaveSink(self.session, source, line_options, images, self._on_stored, follows=follows)
            count = turns[0].settings.max_images
            copies = self._copies(view, layers, count, line_options, lambda: sink.answer.pictures[-1], ANSWER_NAME)
            return [sink, *copies]

        self._run(task, layers, view, open_sinks)

    @property
    def _on_stored(self) -> Callable[[SessionPicture, str], None]:
        """Called with each picture that is stored in the session. In a session that is not saved, the picture is shown
        when its file outside the session is written."""
        return (lambda picture, path: None) if self.session.is_temporary else self._on_picture

    def _copies(
        self,
        view: TurnView,
        layers: Layers,
        count: int,
        line_options: Flags,
        stored: Callable[[], SessionPicture],
        name: str = DEFAULT_NAME,
    ) -> list[Sink]:
        """Return the sink that also writes pictures outside the session: of a line with `-o`, or if the session is not
        saved. Otherwise return none.

        Args:
            count: the largest number of pictures.
            stored: returns the picture of the session that was stored last.
            name: template of a file's name where the line names a folder.
        """
        session = self.session
        if not line_options.settings.get("output") and not session.is_temporary:
            if line_options.settings.get("format", "png") != "png":
                view.notice("the session's own pictures are PNG files; `format` is for those of -o FOLDER/")
            return []

        def report(picture: Picture, path: Path | None, turn: Turn, seconds: float) -> None:
            made = stored()
            if session.is_temporary:
                assert path is not None  # stdout is refused below
                session.note_outside(made.number, path)
                self._on_picture(made, str(path))
            else:
                view.notice(f"picture {made.number} is also saved as {path}")

        writer = _picture_writer(layers.output, count, line_options, name, view.notice)
        return [PictureFileSink(writer, self.resident_model, count, 0, report)]

    def _run(
        self, task: Task, layers: Layers, view: TurnView, open_sinks: Callable[[Sequence[Turn]], list[Sink]]
    ) -> None:
        if self.resident_model.has_failed:
            self.reload()

        def with_measurements(turns: Sequence[Turn]) -> list[Sink]:
            return [self.measurements, *open_sinks(turns)]

        source = self.resident_model
        with_log = logged(with_measurements, layers, source, view, self.session)
        run_turns([task], layers, source, Frontend(view, with_log, SignalStop(), edit=self.edit_prompt))

    def _conversation(
        self, answered: Sequence[AnswerTurn | InterleaveTurn], view: TurnView
    ) -> tuple[Conversation, tuple[InputImage, ...]]:
        """Return the conversation of these turns, and the pictures in it: those of prompts and of interleaved answers.

        The first conversation with an interleaved answer causes a notice that it is an experiment.
        """
        if not self._has_noted_experiment and any(isinstance(each, InterleaveTurn) for each in answered):
            self._has_noted_experiment = True
            view.notice("a conversation after an answer with pictures is an experiment: no model was trained for it")
        system = next((each.system for each in answered if isinstance(each, AnswerTurn)), self._system)
        conversation = Conversation(system=system)
        shown: list[InputImage] = []
        for each in answered:
            inputs = [self.session.read(number) for number in each.inputs]
            images = tuple(each.image for each in inputs)
            shown += inputs
            if isinstance(each, AnswerTurn):
                conversation = Conversation.after(conversation.ask(each.prompt, images), each.answer)
                continue
            drawn = [self.session.read(picture.number) for picture in each.pictures]
            shown += drawn
            request = InterleaveRequest(each.prompt, (*conversation.images, *images), history=conversation.turns)
            pictures = {index: picture.image for index, picture in enumerate(drawn)}
            conversation = replace(
                Conversation.after_interleaved(request, _answer_parts(each), pictures), system=system
            )
        return conversation, tuple(shown)

    def _flags(self, line_options: Flags = NO_OPTIONS, start: Flags | None = None) -> Flags:
        """Merge the flags of a turn; `start` replaces the flags that the program was started with."""
        state = self.session.state
        return merge_flags(start or self._start, state.settings, state.profile, line_options)

    def _view(self, layers: Layers) -> TurnView:
        output = layers.output
        return TurnView(
            quiet=self._start.quiet,
            stream_answers=True,
            show_think=not (output.hide_think or output.print_think),
            print_think=output.print_think,
            preview=output.preview if self._interactive else "off",
            cache_summary=output.enable_cache_dit_summary,
            notify=output.notify,
            preview_part=HALF,
            with_sheet=False,
            spelling=as_session,
        )

    def _load(self, layers: Layers, after: ResidentModel | None = None) -> ResidentModel:
        return ResidentModel(layers.load, layers.values.get("size", "auto"), after)


def _answer_parts(turn: InterleaveTurn) -> list[TextPart | PicturePart]:
    """Return the parts of an answer for the request that follows it, which needs neither tokens nor seeds."""
    parts: list[TextPart | PicturePart] = []
    index = 0
    for part in turn.parts:
        if isinstance(part, SessionPicture):
            parts.append(PicturePart(index, part.seed or 0, f"{part.width}x{part.height}"))
            index += 1
        else:
            parts.append(TextPart(part.text, (), part.thinking))
    return parts


def merge_flags(start: Flags, session: Mapping[str, Any], profile: str | None, line_options: Flags) -> Flags:
    """Merge the flags of one turn. The session's settings override the program's flags; the line overrides both.

    Args:
        session: settings of the session, by name.
        profile: the session's profile; None if none was chosen.

    Raises:
        SettingsError: a setting of the session is invalid, for example because its file was edited.
    """
    in_effect = {name: value for name, value in session.items() if name not in line_options.settings}
    settings = {**start.settings, **check_values(in_effect, SESSION_NOTATION), **line_options.settings}
    if not (line_options.width or line_options.height or "size" in session or "size" in line_options.settings):
        line_options = replace(line_options, width=start.width, height=start.height)
    return replace(line_options, settings=settings, profile=line_options.profile or _choose_profile(start, profile))


def _choose_profile(start: Flags, profile: str | None) -> str | None:
    return None if profile == NO_PROFILE else profile or start.profile


def _picture_writer(
    settings: OutputSettings, count: int, line_options: Flags, name: str, note: Callable[[str], None]
) -> PictureWriter:
    """Return the writer for pictures outside of the session: of a line with `-o`, or without a saved session."""
    if settings.output == "-":
        raise UsageError("stdout of a session is for paths and answers", "name a file with -o")
    return PictureWriter.prepare(
        settings.output,
        force=line_options.force,
        stdout_is_terminal=True,
        count=count,
        default=name,
        form=PictureForm.of(settings, line_options.settings),
        note=note,
    )
