"""An open session. It writes every picture and every turn to disk at once."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from io import FileIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING

from sensenova_cli import __version__
from sensenova_cli.errors import OutputWriteError, SessionError, SessionWriteError
from sensenova_cli.sessions.entries import (
    AnswerTurn,
    Entry,
    InterleaveTurn,
    Opened,
    PictureTurn,
    SessionPicture,
    Stage,
    Use,
)
from sensenova_cli.sessions.lock import lock_session
from sensenova_cli.sessions.saved import PICTURES_FOLDER, SESSION_FILE, Problem, read_session, split_lines
from sensenova_cli.sessions.state import State
from sensenova_cli.sessions.store import check_name, session_folders, sessions_folder
from sensenova_cli.system.atomic_files import check_writable, create_file
from sensenova_cli.system.private_files import FOLDER_MODE, make_private, make_private_folder
from sensenova_cli.system.unicode import json_text

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from PIL import Image

    from sensenova_cli.inputs.pictures import InputImage
    from sensenova_cli.outputs.picture_record import PictureRecord

MAX_SLUG = 24
"""Longest part of a prompt in a session's name, in characters: users type the name."""

CopyingEntry = PictureTurn | AnswerTurn | InterleaveTurn | Use | Stage
"""Entries that can list copies of pictures from outside the session."""


class Session:
    """A session that this process writes. `start` and `open` create one; `with` closes it at the end.

    Attributes:
        state: the state after the last entry.
        problems: damage that was found when the session was opened.
        dropped: settings that are not taken from a saved session, such as `server http://…`.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._folder: Path | None = None
        self._temporary: TemporaryDirectory[str] | None = None
        """The folder of sessions, if they are removed at the end."""
        self._chosen_name = ""
        """The name of a new session that has no folder yet; empty for a name by date and prompt."""
        self._outside: dict[int, Path] = {}
        """Files outside of a temporary session, by the numbers of its pictures."""
        self._lock: BaseFileLock | None = None
        self._wrote_opened = False
        """Whether the file contains an `Opened` entry of this process."""
        self._pending: dict[int, SessionPicture] = {}
        """Pictures that are on disk but not yet in an entry."""
        self._deferred: list[Entry] = []
        """Entries of a new session that has no folder yet. They contain no results, so they may be lost at the end."""
        self.state = State()
        self.problems: tuple[Problem, ...] = ()
        self.dropped: tuple[str, ...] = ()

    @classmethod
    def start(cls, model: str) -> "Session":
        """Start a new session. The first turn or picture creates its folder, named by date and prompt.

        Args:
            model: name of the current model, for the `Opened` entry.

        Raises:
            SessionError: the folder for sessions is not writable.
        """
        _require_writable(sessions_folder())
        return cls(model)

    @classmethod
    def open(cls, name: str, model: str) -> "Session":
        """Open the session with this name; create it if it does not exist.

        Raises:
            SessionError: the name is not allowed, another process has the session open, its folder is not writable,
                or a newer version of the program wrote it.
        """
        name = check_name(name)
        folder = session_folders().get(name, sessions_folder() / name)
        session = cls(model)
        _require_writable(folder)
        session._lock_folder(folder)
        try:
            if (folder / SESSION_FILE).exists():
                saved = read_session(folder, own=True)
                session.state, session.dropped = saved.state.without_addresses()
                session.problems = saved.problems
                _remove_partial_files(folder)
            else:
                session._write_header()
        except BaseException:
            session.close()
            raise
        return session

    @classmethod
    def temporary(cls, model: str) -> "Session":
        """Start a session that `close` removes with its pictures."""
        session = cls(model)
        session._temporary = TemporaryDirectory(prefix="sensenova-", ignore_cleanup_errors=True)
        return session

    def another(self, model: str) -> "Session":
        """Start another new session: saved or temporary, as this one; errors as for `start`."""
        return Session.temporary(model) if self.is_temporary else Session.start(model)

    @property
    def is_temporary(self) -> bool:
        """Whether the session is removed at the end."""
        return self._temporary is not None

    @property
    def folder(self) -> Path | None:
        """The session's folder; None until a new session has a turn or a picture."""
        return self._folder

    @property
    def name(self) -> str | None:
        """The session's name in `sensenova sessions`; None as for `folder`."""
        return self._folder.name if self._folder else None

    def path(self, number: int) -> Path:
        """Return the file of a picture, which may be missing; errors as for State.picture."""
        picture = self._pending.get(number) or self.state.picture(number)
        assert self._folder is not None  # a session with a picture has a folder
        return self._folder / PICTURES_FOLDER / picture.file

    def read(self, number: int) -> "InputImage":
        """Read a picture of the session as an input.

        Raises:
            SessionError: no picture has this number.
            PictureError: the file is missing or damaged.
        """
        from model import PictureError
        from sensenova_cli.inputs.pictures import read_inputs

        path = self.path(number)
        if not path.is_file():
            raise PictureError(
                f"picture {number} is missing: there is no file {path}", "restore the file, or use another picture"
            )
        image = replace(read_inputs([str(path)])[0], name=f"picture {number}")
        # Records outlive a temporary session, so they name the file outside of it.
        outside = self._outside.get(number) or (self.is_temporary and self.state.picture(number).source)
        return replace(image, source=image.source.model_copy(update={"path": str(outside)})) if outside else image

    def lasting_path(self, number: int) -> Path:
        """Return the file of a picture that stays: for a temporary session a file outside of it, if there is one."""
        return self._outside.get(number) or self.path(number)

    def note_outside(self, number: int, path: Path) -> None:
        """Note that a picture of a temporary session is also in a file outside of it, which stays."""
        self._outside[number] = path.absolute()

    def rename(self, name: str) -> None:
        """Give the session another name.

        Raises:
            SessionError: the name is not allowed, or another session has it.
            SessionWriteError: the folder cannot be renamed.
        """
        name = check_name(name)
        if self._folder is not None and self._folder.name == name:
            return
        if name in session_folders() or (self._root() / name).exists():
            raise SessionError(f"there is a session named {name} already", "choose another name")
        if self._folder is None:
            self._chosen_name = name
            return
        target = self._folder.with_name(name)
        try:
            self._folder = self._folder.rename(target)
        except OSError as error:
            raise _write_error(self._folder, error) from error

    def add_picture(
        self, image: "Image.Image", *, prompt: str, seed: int, record: "PictureRecord | None"
    ) -> SessionPicture:
        """Write a picture that the model made, and number it. The entry of the turn must list the picture.

        Args:
            image: RGB, 8 bits per channel.
            record: how the picture was made, for the file's metadata; None writes no metadata.

        Raises:
            OutputWriteError: the write failed; the message says where the picture was saved instead.
            SessionError: as for `append`.
        """
        from sensenova_cli.outputs.picture_writer import PictureWriter, save_elsewhere

        number = self._next_picture()
        try:
            session_folder = self._require_folder(prompt)
            with contextlib.suppress(OSError):  # the writer reports it
                (session_folder / PICTURES_FOLDER).mkdir(mode=FOLDER_MODE, exist_ok=True)
        except SessionWriteError as error:
            raise OutputWriteError(f"{error.what}; {save_elsewhere(image, record, prompt)}", error.hint) from error
        folder = str(session_folder / PICTURES_FOLDER).replace("{", "{{").replace("}", "}}")
        writer = PictureWriter(f"{folder}/{number:03d}-{{slug}}-{{seed}}.png", force=False, numbered=True)
        try:
            path = writer.write(image, prompt=prompt, seed=seed, index=0, count=1, record=record)
        except OutputWriteError as error:
            if isinstance(error.__cause__, OSError):
                raise OutputWriteError(
                    error.what, f"free some disk space, or check the folder {self._folder}"
                ) from error
            raise
        assert path is not None  # None means stdout
        make_private(path)
        picture = SessionPicture(number=number, file=path.name, width=image.width, height=image.height, seed=seed)
        self._pending[number] = picture
        return picture

    def import_picture(self, file: str) -> SessionPicture:
        """Copy a picture from outside into the session, and number it. `append` adds the copy to the next entry.

        If the session already has the file, nothing is copied and its number stays.

        Args:
            file: a path, `-` for standard input, or `clipboard`.

        Raises:
            PictureError: the file is not readable as a picture.
            UsageError: standard input is closed, or there is no picture in the clipboard.
            SessionWriteError: the copy cannot be written.
        """
        from model import open_picture, read_picture
        from sensenova_cli.inputs.pictures import read_content, shown_name
        from sensenova_cli.outputs.picture_record import InputFile

        content = read_content(file)
        name = shown_name(file)
        image = read_picture(content, name)
        source = InputFile.of(file, content)
        for known in (*self.state.pictures.values(), *self._pending.values()):
            path_here = self.path(known.number)
            if (known.sha256 == source.sha256 and path_here.is_file()) or source.path == str(path_here.absolute()):
                return known
        with open_picture(content, name) as opened:
            ending = {"JPEG2000": "jp2"}.get(opened.format or "", (opened.format or "").lower())
        from sensenova_cli.outputs.picture_names import slug

        number = self._next_picture()
        stem = slug(Path(source.path).stem)
        folder = self._require_folder(stem) / PICTURES_FOLDER
        try:
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            path = create_file(_numbered_paths(folder / f"{number:03d}-{stem}.{ending}"), content)
        except OSError as error:
            raise SessionWriteError(
                f"{name} cannot be copied into the session: {error.strerror or error}",
                f"free some disk space, or check the folder {self._folder}",
            ) from error
        assert path is not None  # the candidates are endless
        make_private(path)
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
        """Apply an entry to the state and write it to disk. A turn creates the folder of a new session.

        A turn, a `Use` or a `Stage` also gets the pictures that `import_picture` copied since the last such entry.

        Returns:
            The new state.

        Raises:
            SessionError: the entry does not fit the state (see State.after).
            SessionWriteError: the write failed; file and state are unchanged.
        """
        if isinstance(entry, CopyingEntry):
            entry = self._with_copies(entry)
        state = self.state.after(entry)
        if isinstance(entry, PictureTurn | AnswerTurn | InterleaveTurn):
            self._require_folder(entry.prompt)
        if self._folder is None:
            self._deferred.append(entry)
        else:
            self._write(entry)
        self.state = state
        for number in state.pictures:
            self._pending.pop(number, None)
        return state

    def close(self) -> None:
        """Release the lock, so that other processes can open the session. Everything is already on disk. A temporary
        session is removed."""
        if self._lock is not None:
            self._lock.release()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_picture(self) -> int:
        return max(self.state.next_picture, *(number + 1 for number in self._pending), 1)

    def _with_copies(self, entry: CopyingEntry) -> CopyingEntry:
        copied = tuple(picture for picture in self._pending.values() if picture.seed is None)
        return entry.model_copy(update={"brought": (*entry.brought, *copied)})

    def _require_folder(self, about: str) -> Path:
        """Return the session's folder; create the folder of a new session and name it after `about`."""
        if self._folder is None:
            root = self._root()
            try:
                for name in _free_names(about, self._chosen_name):
                    try:
                        (root / name).mkdir(mode=FOLDER_MODE)
                    except FileExistsError:
                        continue
                    self._lock_folder(root / name)
                    break
            except OSError as error:
                raise _write_error(root, error) from error
            try:
                self._write_header()
            except BaseException:
                # Without the folder, the next turn can try again.
                self._discard_folder()
                raise
        while self._deferred:
            self._write(self._deferred[0])
            del self._deferred[0]
        assert self._folder is not None
        return self._folder

    def _root(self) -> Path:
        return Path(self._temporary.name) if self._temporary is not None else sessions_folder()

    def _discard_folder(self) -> None:
        """Remove the folder of a new session whose first write failed."""
        assert self._folder is not None
        if self._lock is not None:
            self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._lock = None

    def _lock_folder(self, folder: Path) -> None:
        self._lock = lock_session(folder)
        self._folder = folder

    def _write_header(self) -> None:
        assert self._folder is not None
        try:
            # Written atomically: a folder without this file is not a session.
            create_file([self._folder / SESSION_FILE], _line(self._opened()))
            make_private(self._folder / SESSION_FILE)
        except OSError as error:
            raise _write_error(self._folder, error) from error
        self._wrote_opened = True

    def _opened(self) -> Opened:
        return Opened(model=self._model, version=__version__)

    def _write(self, entry: Entry) -> None:
        assert self._folder is not None
        lines = _line(entry) if self._wrote_opened else _line(self._opened()) + _line(entry)
        path = self._folder / SESSION_FILE
        try:
            # Opened for every entry, so that a removed file is noticed. Unbuffered, because closing the file after a
            # failure would write the rest of a buffer again.
            with path.open("r+b", buffering=0) as file:
                end, separator = _intact_end(file)
                try:
                    file.truncate(end)
                    file.seek(end)
                    _write_all(file, separator + lines)
                    os.fsync(file.fileno())
                except BaseException:
                    # After a full disk or Ctrl-C no part of the lines may remain, or a retry would repeat the turn.
                    file.truncate(end)
                    raise
        except OSError as error:
            raise _write_error(self._folder, error) from error
        self._wrote_opened = True


def _line(entry: Entry) -> bytes:
    return json_text(entry.model_dump(mode="json")).encode() + b"\n"


def _intact_end(file: FileIO) -> tuple[int, bytes]:
    """Return the offset after the last intact line, and the bytes to write there before a new line."""
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
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[file.write(remaining) :]


def _free_names(about: str, chosen: str) -> Iterator[str]:
    """Yield names for a new session: the chosen one, or one by date and prompt; then the same with a number."""
    from sensenova_cli.outputs.picture_names import slug

    words = slug(about)
    while len(words) > MAX_SLUG:
        words = words.rpartition("-")[0] if "-" in words else words[:MAX_SLUG]
    yield from map(str, _numbered_paths(Path(chosen or f"{date.today().isoformat()}-{words}")))


def _numbered_paths(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _require_writable(folder: Path) -> None:
    try:
        make_private_folder(folder)
        check_writable(folder)
    except OSError as error:
        blocking = next((part for part in (folder, *folder.parents) if part.is_file()), None)
        raise SessionError(
            f"sessions cannot be saved in {folder}: {f'{blocking} is a file' if blocking else error.strerror or error}",
            "set SENSENOVA_DATA_DIR to a writable folder",
        ) from error


def _remove_partial_files(folder: Path) -> None:
    """Remove files that a killed program left half-written. This process holds the lock, so no other is writing."""
    for place in (folder, folder / PICTURES_FOLDER):
        for path in place.glob(".sensenova-*.part"):
            with contextlib.suppress(OSError):
                path.unlink()


def _write_error(folder: Path, error: OSError) -> SessionWriteError:
    return SessionWriteError(
        f"the session in {folder} cannot be written: {error.strerror or error}",
        "free some disk space, or check that the folder is still there",
    )
