"""A session that is open: every picture and every turn is on disk before the next thing happens."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from io import FileIO
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from sensenova_cli import __version__
from sensenova_cli.errors import OutputWriteError, SessionError, SessionWriteError
from sensenova_cli.sessions.entries import AnswerTurn, Entry, Opened, PictureTurn, SessionPicture, Stage, Use
from sensenova_cli.sessions.lock import lock_session
from sensenova_cli.sessions.saved import PICTURES_FOLDER, SESSION_FILE, Problem, read_session, split_lines
from sensenova_cli.sessions.state import State
from sensenova_cli.sessions.store import check_name, session_folders, sessions_folder
from sensenova_cli.system.atomic_files import check_writable, create_file
from sensenova_cli.system.unicode import json_text

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from PIL import Image

    from sensenova_cli.inputs.pictures import InputImage
    from sensenova_cli.outputs.png_metadata import PictureRecord

MAX_SLUG = 24
"""Characters of a prompt in the name of a session, which people have to type."""

Bringing = PictureTurn | AnswerTurn | Use | Stage
"""Entries that pictures from outside come with."""


class Session:
    """A session that this process writes. `start` and `open` make one; used with `with`, it is closed at the end.

    Attributes:
        state: where the session stands.
        problems: what was found damaged when it was opened.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._folder: Path | None = None
        self._lock: BaseFileLock | None = None
        self._noted = False
        """Whether the file holds the line that says that this process has opened it."""
        self._pending: dict[int, SessionPicture] = {}
        """Pictures whose files are there already, until an entry names them."""
        self._waiting: list[Entry] = []
        """What happened in a new session before anything gave it a name: settings, at most."""
        self.state = State()
        self.problems: tuple[Problem, ...] = ()

    @classmethod
    def start(cls, model: str) -> "Session":
        """A new session. With the first turn or picture its folder appears, named by the date and the first words.

        Args:
            model: what the session's pictures and answers are made with for now, for the record.

        Raises:
            SessionError: sessions cannot be written where they should lie.
        """
        _require_writable(sessions_folder())
        return cls(model)

    @classmethod
    def open(cls, name: str, model: str) -> "Session":
        """The session of this name, to be continued where there is one, else a new one.

        Raises:
            SessionError: that is no name for one, another process has it open, it cannot be written, or a newer
                version of the program has written it.
        """
        name = check_name(name)
        folder = session_folders().get(name, sessions_folder() / name)
        session = cls(model)
        _require_writable(folder)
        session._take(folder)
        try:
            if (folder / SESSION_FILE).exists():
                saved = read_session(folder, own=True)
                session.state, session.problems = saved.state, saved.problems
                _remove_leftovers(folder)
            else:
                session._write_header()
        except BaseException:
            session.close()
            raise
        return session

    @property
    def folder(self) -> Path | None:
        """Where the session lies; None while a new one has no turn and no picture."""
        return self._folder

    @property
    def name(self) -> str | None:
        """What `sensenova sessions` calls it; None as for `folder`."""
        return self._folder.name if self._folder else None

    def path(self, number: int) -> Path:
        """The file of a picture, which may be gone; errors as for State.picture."""
        picture = self._pending.get(number) or self.state.picture(number)
        assert self._folder is not None  # it has a picture
        return self._folder / PICTURES_FOLDER / picture.file

    def read(self, number: int) -> "InputImage":
        """A picture of the session as an input.

        Raises:
            SessionError: there is none of this number.
            PictureError: its file is gone or damaged.
        """
        from model import PictureError
        from sensenova_cli.inputs.pictures import read_inputs

        path = self.path(number)
        if not path.is_file():
            raise PictureError(
                f"picture {number} is gone: there is no file {path}", "bring it back, or take another one"
            )
        return replace(read_inputs([str(path)])[0], name=f"picture {number}")

    def add_picture(
        self, image: "Image.Image", *, prompt: str, seed: int, record: "PictureRecord | None"
    ) -> SessionPicture:
        """Write a picture that was made, and give it its number; the turn's entry has to name it.

        Args:
            image: RGB, 8 bits a channel.
            record: what to note in the file about how it was made; None for nothing.

        Raises:
            OutputWriteError: the write failed, and the message says where the picture was kept instead.
            SessionError: as for `append`.
        """
        from sensenova_cli.outputs.picture_writer import PictureWriter

        number = self._next_picture()
        start = str(self._require_folder(prompt) / PICTURES_FOLDER).replace("{", "{{").replace("}", "}}")
        output = PictureWriter(f"{start}/{number:03d}-{{slug}}-{{seed}}.png", force=False, numbered=True)
        try:
            path = output.write(image, prompt=prompt, seed=seed, index=0, count=1, record=record)
        except OutputWriteError as error:
            if isinstance(error.__cause__, OSError):
                raise OutputWriteError(error.what, f"make room, or check the folder {self._folder}") from error
            raise
        assert path is not None  # it did not go to stdout
        picture = SessionPicture(number=number, file=path.name, width=image.width, height=image.height, seed=seed)
        self._pending[number] = picture
        return picture

    def bring(self, file: str) -> SessionPicture:
        """Copy a picture from outside into the session, and give it its number.

        A file that the session holds already keeps the number it has. The next entry that can bring pictures with
        it names it of itself; see `append`.

        Args:
            file: as typed: a path, or `-` for standard input.

        Raises:
            PictureError: it cannot be read.
            UsageError: standard input is closed.
            SessionWriteError: it cannot be copied.
        """
        from model import open_picture, read_picture
        from sensenova_cli.inputs.pictures import read_content
        from sensenova_cli.outputs.png_metadata import InputFile
        from sensenova_cli.system.streams import STDIN

        content = read_content(file)
        called = "standard input" if file == STDIN else file
        image = read_picture(content, called)
        source = InputFile.of(file, content)
        for known in (*self.state.pictures.values(), *self._pending.values()):
            here = self.path(known.number)
            if (known.sha256 == source.sha256 and here.is_file()) or source.path == str(here.absolute()):
                return known
        with open_picture(content, called) as opened:
            ending = {"JPEG2000": "jp2"}.get(opened.format or "", (opened.format or "").lower())
        from sensenova_cli.outputs.picture_writer import slug

        number = self._next_picture()
        stem = slug(Path(source.path).stem)
        folder = self._require_folder(stem) / PICTURES_FOLDER
        try:
            folder.mkdir(exist_ok=True)
            path = create_file(_candidates(folder / f"{number:03d}-{stem}.{ending}"), content)
        except OSError as error:
            raise SessionWriteError(
                f"{called} cannot be copied into the session: {error.strerror or error}",
                f"make room, or check the folder {self._folder}",
            ) from error
        assert path is not None  # there is no end of candidates
        picture = SessionPicture(
            number=number,
            file=path.name,
            width=image.width,
            height=image.height,
            source=source.path,
            sha256=source.sha256,
        )
        self._pending[number] = picture
        return picture

    def append(self, entry: Entry) -> State:
        """Note what happened; afterwards it is on disk, where the session has a folder already or gets one now.

        A turn, a `Use` or a `Stage` gets the pictures that `bring` has copied since the last one as its `brought`.

        Returns:
            The new state.

        Raises:
            SessionError: it cannot happen now (see State.after).
            SessionWriteError: it cannot be written; the file and the state are as they were.
        """
        if isinstance(entry, Bringing):
            entry = self._with_brought(entry)
        state = self.state.after(entry)
        if isinstance(entry, PictureTurn | AnswerTurn):
            self._require_folder(entry.prompt)
        if self._folder is None:
            self._waiting.append(entry)
        else:
            self._write(entry)
        self.state = state
        for number in state.pictures:
            self._pending.pop(number, None)
        return state

    def close(self) -> None:
        """Let other processes open the session; nothing is left to be written."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_picture(self) -> int:
        return max(self.state.next_picture, *(number + 1 for number in self._pending), 1)

    def _with_brought(self, entry: Bringing) -> Bringing:
        copied = tuple(picture for picture in self._pending.values() if picture.seed is None)
        return entry.model_copy(update={"brought": (*entry.brought, *copied)})

    def _require_folder(self, about: str) -> Path:
        """The session's folder; a new session gets one, named by what it is `about`."""
        if self._folder is None:
            root = sessions_folder()
            try:
                for name in _free_names(about):
                    try:
                        (root / name).mkdir()
                    except FileExistsError:
                        continue
                    self._take(root / name)
                    break
            except OSError as error:
                raise _write_error(root, error) from error
            try:
                self._write_header()
            except BaseException:
                # As if nothing had happened, so that the next turn can try again.
                self._give_back()
                raise
        while self._waiting:
            self._write(self._waiting[0])
            del self._waiting[0]
        assert self._folder is not None
        return self._folder

    def _give_back(self) -> None:
        """Remove the folder of a session that could not begin."""
        assert self._folder is not None
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._lock = None

    def _take(self, folder: Path) -> None:
        self._lock = lock_session(folder)
        self._folder = folder

    def _write_header(self) -> None:
        assert self._folder is not None
        try:
            # Whole or not at all: a folder without this file is no session yet.
            create_file([self._folder / SESSION_FILE], _line(self._opened()))
        except OSError as error:
            raise _write_error(self._folder, error) from error
        self._noted = True

    def _opened(self) -> Opened:
        return Opened(model=self._model, version=__version__)

    def _write(self, entry: Entry) -> None:
        assert self._folder is not None
        lines = _line(entry) if self._noted else _line(self._opened()) + _line(entry)
        path = self._folder / SESSION_FILE
        try:
            # Opened anew each time: where it was removed meanwhile, that must not go unnoticed. And unbuffered: what
            # is left in a buffer after a failure would be written once more when the file is closed.
            with path.open("r+b", buffering=0) as file:
                end, between = _intact_end(file)
                try:
                    file.truncate(end)
                    file.seek(end)
                    _write_all(file, between + lines)
                    os.fsync(file.fileno())
                except BaseException:
                    # A full disk, or Ctrl-C: not a part of it may stay, or the same turn would come twice.
                    file.truncate(end)
                    raise
        except OSError as error:
            raise _write_error(self._folder, error) from error
        self._noted = True


def _line(entry: Entry) -> bytes:
    return json_text(entry.model_dump(mode="json")).encode() + b"\n"


def _intact_end(file: FileIO) -> tuple[int, bytes]:
    """Where the good part of a session file ends, and what has to be written there before a new line."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0, b""
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size, b""
    file.seek(0)
    _, torn = split_lines(file.readall())
    return (size - len(torn[1]), b"") if torn else (size, b"\n")


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _free_names(about: str) -> Iterator[str]:
    from sensenova_cli.outputs.picture_writer import slug

    words = slug(about)
    while len(words) > MAX_SLUG:
        words = words.rpartition("-")[0] if "-" in words else words[:MAX_SLUG]
    yield from map(str, _candidates(Path(f"{date.today().isoformat()}-{words}")))


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        blocking = next((part for part in (folder, *folder.parents) if part.is_file()), None)
        raise SessionError(
            f"sessions cannot be kept in {folder}: {f'{blocking} is a file' if blocking else error.strerror or error}",
            "set SENSENOVA_DATA_DIR to a folder that can be written",
        ) from error


def _remove_leftovers(folder: Path) -> None:
    """Remove what a program that was killed left half-written; the lock is held, so nobody is writing."""
    for place in (folder, folder / PICTURES_FOLDER):
        for path in place.glob(".sensenova-*.part"):
            with contextlib.suppress(OSError):
                path.unlink()


def _write_error(folder: Path, error: OSError) -> SessionWriteError:
    return SessionWriteError(
        f"the session in {folder} cannot be written: {error.strerror or error}",
        "make room, or check that the folder is still there",
    )
