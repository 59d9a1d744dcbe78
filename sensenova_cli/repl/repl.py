"""What each line does: words act on the picture in hand, commands on the session."""

import gc
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from config.check import Notation, check_values, near_miss
from config.errors import SenseNovaError
from config.profile_files import find_profile, profile_files
from config.schema import SETTING_NAMES, EngineSettings
from config.toml_file import show_path
from model.weights.named_lora import parse_loras
from sensenova_cli.again import Task
from sensenova_cli.atomic import create_file, replace_file
from sensenova_cli.commands.describe import ONE_PICTURE, SEVERAL_PICTURES
from sensenova_cli.errors import OutputError, OutputWriteError, UsageError
from sensenova_cli.flags import Flags
from sensenova_cli.interrupts import end_on_signals, wants_to_leave
from sensenova_cli.render.console import printable, stderr_console
from sensenova_cli.render.errors import print_error
from sensenova_cli.render.preview import Preview
from sensenova_cli.render.progress import gigabytes, rate
from sensenova_cli.repl.commands import COMMANDS, command_help
from sensenova_cli.repl.desk import Desk
from sensenova_cli.repl.lines import Line, looks_like_path, parse_line, words_of
from sensenova_cli.repl.typed import INSTEAD, NO_PROFILE, line_flags
from sensenova_cli.sessions.entries import (
    PictureTurn,
    Redo,
    SessionPicture,
    Set,
    Stage,
    Undo,
    Unset,
    Use,
    UseProfile,
)
from sensenova_cli.sessions.session import Session
from sensenova_cli.spelling import as_session

Mode = Literal["pictures", "chat"]

FIXED = {
    **INSTEAD,
    "check_weights": "leave, and start again with --check-weights",
    "enforce_eager": "leave, and start again with --enforce-eager",
    "offload": "leave, and start again with --offload",
    "gpu_memory": "leave, and start again with --gpu-memory",
    "output": "end a line with -o FILE, or use /save FILE",
}
"""Settings that a session cannot set for all turns to come, and what to do instead."""


class Leave(Exception):  # not an error: the user wants to go
    """The session is to end."""


class Repl:
    """Does what lines say, one after the other, and tells how it went.

    Args:
        session: the session they belong to, new or continued.
        start: the flags that the program was started with.
        mode: what plain words do: make and edit pictures, or talk.
        system: system message of answers.
        interactive: whether a person sits in front of it; else results go to stdout, one a line, for a script.
        debug: print the traceback of an error.
    """

    def __init__(
        self, session: Session, start: Flags, mode: Mode, *, system: str = "", interactive: bool, debug: bool
    ) -> None:
        self.session = session
        self.mode = mode
        self._interactive = interactive
        self._debug = debug
        self._quiet = start.quiet
        self._console = stderr_console()
        self._made: list[SessionPicture] = []
        self.was_interrupted = False
        """Whether a signal ended the last line."""
        self.desk = Desk(session, start, self._on_picture, system=system, interactive=interactive)
        self._actions: dict[str, Callable[[Line], None]] = {
            "generate": self._generate,
            "edit": self._edit,
            "describe": lambda line: self._describe(line, self._stage_paths(line.files)),
            "chat": lambda line: self._chat(line, self._stage_paths(line.files)),
            "think": self._think,
            "again": self._again,
            "use": self._use,
            "image": self._image,
            "undo": self._undo,
            "redo": self._redo,
            "set": self._set,
            "unset": self._unset,
            "profile": self._profile,
            "model": self._model,
            "save": self._save,
            "load": self._load,
            "lora": self._lora,
            "stats": self._stats,
            "history": self._history,
            "help": self._help,
            "quit": self._quit,
        }
        assert set(self._actions) == set(COMMANDS)

    def do(self, typed: str) -> bool:
        """Do what a line says; whether it went well. Whatever goes wrong, the session lives.

        Raises:
            Leave: the line says so.
        """
        self.was_interrupted = False
        try:
            self._do(parse_line(typed))
        except SenseNovaError as error:
            if self._debug:
                traceback.print_exception(error)
            print_error(error.what, error.hint, as_session)
        except KeyboardInterrupt:
            self.was_interrupted = True
            end_on_signals()  # the next one interrupts again, instead of leaving at once
            self._say("interrupted")
        except Leave:
            raise
        except BrokenPipeError:
            raise Leave from None  # whoever read the results has gone
        except Exception as error:
            if self._debug:
                traceback.print_exception(error)
            print_error(
                f"unexpected {type(error).__name__}: {error or 'no message'}",
                "" if self._debug else "start again with --debug for the traceback; this session goes on",
            )
        else:
            if wants_to_leave():  # a signal came when there was nothing left to interrupt
                raise Leave
            return True
        # What the turn had in memory hangs on its frames, which only a collection frees where they form a circle.
        gc.collect()
        if wants_to_leave():
            raise Leave
        return False

    def greet(self, notice: str) -> None:
        """Say what this is, and what was found of a session that is continued."""
        if notice and not self._quiet:
            self._console.print(Text.assemble(("note:", "yellow"), " ", as_session(notice)), soft_wrap=True)
        for problem in self.session.problems:
            print_error(str(problem))
        if self.desk.problem is not None:
            print_error(
                self.desk.problem.what,
                f"{self.desk.problem.hint}; or /set, /unset or /profile none".lstrip("; "),
                as_session,
            )
        state = self.session.state
        if state.turns:
            self._say(f"session {self.session.name}: {len(state.turns)} turns, {len(state.pictures)} pictures")
            self._tell_hand()
        elif self._interactive:
            self._say("type what to draw, or /help")

    def leave(self) -> None:
        """Say where the session is kept."""
        if self.session.name:
            self._say(f"kept: sensenova repl --session {self.session.name}")

    def _do(self, line: Line) -> None:
        if line.is_empty:
            return
        if line.kind == "command":
            self._command(line)
            return
        brought = self._stage_paths(line.files)
        if not line.text and not line.flags and line.kind == "words":
            self._stage(brought)
        elif line.kind == "question":
            self._describe(line, brought)
        elif self.mode == "chat":
            self._chat(line, brought)
        elif brought or self.session.state.staged or self.session.state.hand:
            self._edit(line, brought)
        else:
            self._generate(line)

    def _command(self, line: Line) -> None:
        action = self._actions.get(line.command)
        if action is None:
            word = f"/{line.command}"
            if looks_like_path(word):
                raise UsageError(f"there is no picture file {word}", "check its name; /help lists the commands")
            meant = near_miss(line.command, COMMANDS)
            hint = f"did you mean /{meant}? " if meant else ""
            raise UsageError(f"there is no command {word}", f"{hint}/help lists the commands")
        if line.flags and line.command not in ("generate", "edit", "describe", "chat", "think", "again", "save"):
            raise UsageError(f"/{line.command} takes no flags", f"see: /help {line.command}")
        action(line)

    # Turns

    def _generate(self, line: Line) -> None:
        if not line.text:
            raise UsageError("there is nothing to draw", "say what: a cat at dusk")
        self._draw("generate", line.text, (), line_flags("generate", line.flags))

    def _edit(self, line: Line, brought: Sequence[int] = ()) -> None:
        if not line.text:
            raise UsageError("there is nothing to change", "say what: make it an oil painting")
        self._draw("edit", line.text, self._about(brought), line_flags("edit", line.flags))

    def _draw(self, task: Task, text: str, inputs: Sequence[int], flags: Flags) -> None:
        self._made.clear()
        try:
            self.desk.draw(task, text, inputs, flags)
        finally:
            if len(self._made) > 1:
                self._show_candidates([picture.number for picture in self._made])

    def _describe(self, line: Line, brought: Sequence[int]) -> None:
        about = self._about(brought, asking=True)
        question = line.text or (ONE_PICTURE if len(about) == 1 else SEVERAL_PICTURES)
        continues = about == self.session.state.now.shown
        flags = line_flags("describe", line.flags)
        self.desk.answer("describe", question, () if continues else about, flags, continues=continues)
        if self.session.state.staged:
            self.session.append(Stage(staged=()))  # they have been seen before, and asked about now

    def _chat(self, line: Line, brought: Sequence[int]) -> None:
        if not line.text:
            raise UsageError("there is nothing to say", "for example: /chat what can you do?")
        images = (*self.session.state.staged, *brought)
        continues = bool(self.session.state.now.conversation)
        self.desk.answer("chat", line.text, images, line_flags("chat", line.flags), continues=continues)

    def _think(self, line: Line) -> None:
        match line.text.strip().lower():
            case "" | "on" | "off" if line.flags:
                raise UsageError("/think on and off take no flags", "for example: /think a cat --seed 7")
            case "" | "on":
                self._apply({"think": True})
            case "off":
                self._apply({"think": False})
            case _:
                state = self.session.state
                task: Task = "edit" if state.hand or state.staged else "generate"
                flags = line_flags(task, line.flags)
                thinking = replace(flags, settings={**flags.settings, "think": True})
                self._draw(task, line.text, self._about(()) if task == "edit" else (), thinking)

    def _again(self, line: Line) -> None:
        if line.text:
            raise UsageError("/again takes flags only", "for example: /again --seed 7")
        turns = [turn for turn in self.session.state.turns if isinstance(turn, PictureTurn)]
        if not turns:
            raise UsageError("no picture was made yet", "say what to draw: a cat at dusk")
        last = turns[-1]
        typed = line_flags(last.kind, line.flags)
        seed = int(str(last.settings["seed"])) + int(str(last.settings["num_images"]))
        settings = {**last.typed, "seed": seed, **typed.settings}
        self._draw(last.kind, last.prompt, last.inputs, replace(typed, settings=settings))

    # Pictures

    def _about(self, brought: Sequence[int], *, asking: bool = False) -> tuple[int, ...]:
        """The pictures a turn is about: those that are staged or named with it, else the one in hand; for a question
        without one, those of the conversation."""
        state = self.session.state
        numbers = tuple(dict.fromkeys((*state.staged, *brought)))
        if numbers:
            return numbers
        if state.hand is None:
            if asking and state.now.shown:
                return state.now.shown
            raise UsageError("there is no picture in hand", "make one, or name a file: /load FILE")
        return (state.hand.number,)

    def stage_files(self, files: Sequence[str]) -> None:
        """Stage picture files; errors as for Session.bring."""
        self._stage(self._stage_paths(files))

    def _stage_paths(self, files: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.session.bring(file).number for file in files)

    def _stage(self, numbers: Sequence[int]) -> None:
        staged = tuple(dict.fromkeys((*self.session.state.staged, *numbers)))
        self.session.append(Stage(staged=staged))
        names = ", ".join(map(self._called, staged))
        self._say(f"staged: {names}; goes with the next line" if staged else "nothing is staged")

    def _image(self, line: Line) -> None:
        words = words_of(line.text)
        if words == ["none"]:
            self.session.append(Stage(staged=()))
            self._say("nothing is staged")
        elif not words:
            self._stage(())
        else:
            self._stage([self._number(word) if word.isdecimal() else self.session.bring(word).number for word in words])

    def _use(self, line: Line) -> None:
        word = line.text.strip()
        if word == "none":
            self.session.append(Use(picture=None))
            self._say("no picture in hand: the next words make a new one")
            return
        if not word:
            candidates = self.session.state.now.candidates
            known = candidates or tuple(self.session.state.pictures)
            if not known:
                raise UsageError("there are no pictures yet", "say what to draw: a cat at dusk")
            self._show_candidates(known)
            return
        number = self._number(word)
        self.session.read(number)  # that it can be read is known before it is in hand
        self.session.append(Use(picture=number))
        self._show(number)
        self._tell_hand()

    def _load(self, line: Line) -> None:
        words = words_of(line.text)
        if len(words) != 1:
            raise UsageError("/load takes one picture file", "for example: /load cat.png")
        picture = self.session.bring(words[0])
        self.session.read(picture.number)  # that it can be read is known before it is in hand
        self.session.append(Use(picture=picture.number))
        self._show(picture.number)
        self._tell_hand()

    def _save(self, line: Line) -> None:
        words = [*words_of(line.text), *line.flags]
        force = "-f" in words or "--force" in words
        words = [word for word in words if word not in ("-f", "--force")]
        number = self._number(words.pop(0)) if words and words[0].isdecimal() else self._about(())[0]
        if len(words) > 1:
            raise UsageError("/save takes a picture's number and a file", "for example: /save 3 cat.png")
        source = self.session.path(number)
        place = Path(words[0] if words else source.name).expanduser()
        if place.is_dir():
            place /= source.name
        try:
            content = source.read_bytes()
            place.parent.mkdir(parents=True, exist_ok=True)
            written: Path | None = place
            if force:
                replace_file(place, content)
            else:
                written = create_file([place], content)
        except OSError as error:
            raise OutputWriteError(
                f"picture {number} cannot be saved: {error.filename or place}: {error.strerror or error}",
                "name another place: /save FILE",
            ) from error
        if written is None:
            raise OutputError(f"{place} exists already", f"use /save {number} {place} -f, or another name")
        self._result(str(place))

    def _undo(self, line: Line) -> None:
        before = self.session.state.now
        if before.conversation != self.session.append(Undo()).now.conversation:
            self._say("the last question is forgotten")
        self._tell_hand()

    def _redo(self, line: Line) -> None:
        before = self.session.state.now
        if before.conversation != self.session.append(Redo()).now.conversation:
            self._say("the question is remembered again")
        self._tell_hand()

    # Settings

    def _set(self, line: Line) -> None:
        words = words_of(line.text)
        if not words:
            self._list_settings()
            return
        if len(words) == 1 and "=" in words[0]:
            words = words[0].split("=", 1)
        name = words[0].replace("-", "_")
        if len(words) < 2:
            raise UsageError(f"/set {words[0]}: there is no value", f"for example: /set {words[0]} 7")
        self._apply({name: " ".join(words[1:])})

    def _apply(self, values: dict[str, Any]) -> None:
        for name in values:
            if name in FIXED:
                raise UsageError(f"{name} cannot be set within a session", FIXED[name])
        notation = Notation(
            place=lambda name: "/set ",
            key=str,
            equals=" ",
            literal=str,
            text=True,
            culprit=lambda name: f"/set {name}: ",
        )
        checked = check_values(values, notation, [name for name in SETTING_NAMES if name not in FIXED])
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in checked.items()}
        state = self.session.state
        self.desk.check({**state.settings, **plain}, state.profile)  # together with the others
        self.session.append(Set(settings=plain))
        self._say(", ".join(f"{name} = {_shown(value)}" for name, value in plain.items()))

    def _unset(self, line: Line) -> None:
        known = tuple(self.session.state.settings)
        words = [word.replace("-", "_") for word in words_of(line.text)]
        names = known if words in ([], ["all"]) else tuple(words)
        for name in names:
            if name not in known:
                meant = near_miss(name, known)
                hint = f"did you mean {meant}?" if meant else f"set are: {', '.join(known) or 'none'}"
                raise UsageError(f"{name} is not set in this session", hint)
        if not names:
            self._say("nothing is set in this session")
            return
        self.session.append(Unset(names=names))
        resolved = self.desk.resolve()
        for name in names:
            self._say(f"{name} = {_shown(getattr(resolved.settings, name))} ({resolved.origins[name]})")

    def _list_settings(self) -> None:
        resolved = self.desk.resolve()
        table = Table.grid(padding=(0, 2))
        for name in SETTING_NAMES:
            origin = "this session" if name in self.session.state.settings else resolved.origins[name]
            if origin != "default":
                table.add_row(name, _shown(getattr(resolved.settings, name)), Text(origin, style="dim"))
        self._console.print(table)

    def _profile(self, line: Line) -> None:
        word = line.text.strip()
        if not word:
            self._tell(f"profile: {self.desk.profile or 'none'}; there are: {', '.join(profile_files())}")
            return
        if word != NO_PROFILE:
            find_profile(word)
        settings = self.desk.check(self.session.state.settings, word).settings
        self.session.append(UseProfile(profile=word))
        self._say(f"profile: {word}")
        loaded = self.desk.loading.settings
        if any(getattr(settings, name) != getattr(loaded, name) for name in EngineSettings.model_fields):
            self._say("which model it runs, and how, is for the start: leave, and start again with --profile")

    def _model(self, line: Line) -> None:
        words = words_of(line.text)
        if not words:
            self._tell(f"model: {self.desk.model}")
            return
        if len(words) > 1:
            raise UsageError("/model takes one name", "a folder, a Hub id, or demo")
        self.desk.use_model(words[0])
        self._say(f"loading {words[0]}")

    def _lora(self, line: Line) -> None:
        text = line.text.strip()
        if text:
            self.desk.use_loras(text)
        loras = parse_loras(self.desk.loading.settings.lora)
        self._say(f"LoRA: {', '.join(map(str, loras)) or 'none'}")

    # Telling

    def _stats(self, line: Line) -> None:
        statistics = self.desk.statistics
        if statistics is None:
            raise UsageError("nothing was measured yet", "make a picture or ask something first")
        tokens, reused = self.desk.last_prefix
        read = computed = ""
        if statistics.text_bytes:
            read = f", {rate(statistics.text_bytes / statistics.text_seconds, 'B/s')} read"
        if statistics.denoise_flops:
            computed = f", {rate(statistics.denoise_flops / statistics.denoise_seconds, 'FLOP/s')}"
            computed += f", attention by {statistics.attention}"
        rows = [
            ("prefix", f"{statistics.prefix_tokens} tokens read, {reused} of {tokens} kept from before"),
            ("text", f"{statistics.new_tokens} tokens in {statistics.text_seconds:.2f} s" + read),
            ("picture", f"{statistics.steps} steps in {statistics.denoise_seconds:.2f} s" + computed),
            ("in all", f"{statistics.seconds:.2f} s"),
            ("memory", f"peak {gigabytes(statistics.peak_memory)} on {statistics.device}"),
            ("session", str(self.session.folder or "nothing yet")),
        ]
        for name, value in rows:
            self._tell(f"{name:8} {value}")

    def _history(self, line: Line) -> None:
        state = self.session.state
        for turn in state.turns:
            ending = "" if turn.status == "done" else f" ({turn.status}: {turn.reason})"
            if isinstance(turn, PictureTurn):
                pictures = ", ".join(str(picture.number) for picture in turn.pictures)
                about = f" of {', '.join(map(str, turn.inputs))}" if turn.inputs else ""
                self._tell(f"{turn.turn}. {turn.kind}{about}: {turn.prompt} → {pictures or 'nothing'}{ending}")
            else:
                self._tell(f"{turn.turn}. {turn.kind}: {turn.prompt}{ending}")
                if turn.answer:
                    self._tell(f"   {turn.answer}")
        self._tell_hand()

    def _help(self, line: Line) -> None:
        word = line.text.strip().removeprefix("/")
        if word and word not in COMMANDS:
            meant = near_miss(word, COMMANDS)
            raise UsageError(f"there is no command /{word}", f"did you mean /{meant}?" if meant else "see: /help")
        self._console.print(command_help(word or None))

    def _quit(self, line: Line) -> None:
        raise Leave

    def _on_picture(self, picture: SessionPicture, path: str) -> None:
        self._made.append(picture)
        if self._interactive:
            place = show_path(Path(path))
            self._console.print(Text.assemble((f"picture {picture.number}", "bold"), f"  {place}"), soft_wrap=True)
        else:
            self._result(path)

    def _show_candidates(self, numbers: Sequence[int]) -> None:
        """Several pictures as one, each with its number."""
        preview = self._preview()
        if preview.method is not None and _are_neighbours(numbers):
            preview.show_several([self.session.read(number).image for number in numbers], first=numbers[0])
        self._say(f"pictures {', '.join(map(str, numbers))}: /use N takes one in hand")

    def _show(self, number: int) -> None:
        self._preview().show(self.session.read(number).image)

    def _preview(self) -> Preview:
        setting = self.desk.resolve().settings.preview
        return Preview.choose(self._console, setting if self._interactive and not self._quiet else "off")

    def _tell_hand(self) -> None:
        hand = self.session.state.hand
        self._say(f"in hand: {self._called(hand.number)}" if hand else "no picture in hand")

    def _called(self, number: int) -> str:
        return f"picture {number} ({self.session.state.picture(number).file})"

    def _number(self, word: str) -> int:
        if not word.isdecimal():
            raise UsageError(f"{word!r} is no number of a picture", "for example: /use 3")
        return self.session.state.picture(int(word)).number

    def _say(self, text: str) -> None:
        """A remark about the session, which may be overlooked."""
        if not self._quiet:
            self._tell(text)

    def _tell(self, text: str) -> None:
        """What was asked for."""
        self._console.print(Text(printable(text), style="dim"), soft_wrap=True)

    def _result(self, text: str) -> None:
        print(text, flush=True)
        sys.stdout.flush()


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _are_neighbours(numbers: Sequence[int]) -> bool:
    return list(numbers) == list(range(numbers[0], numbers[0] + len(numbers)))
