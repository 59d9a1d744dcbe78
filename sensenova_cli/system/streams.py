"""The three standard streams where they are not what a program expects: closed, full, or left by their reader."""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

from sensenova_cli.errors import UsageError

STDIN = "-"
"""What stands for standard input where a prompt or a file is named."""


class StdoutError(OSError):
    """Results cannot be written to stdout, because of a full disk for example."""


def prepare_streams() -> None:
    """Make stdout and stderr safe to write to, whatever they are connected to.

    Afterwards nothing that is written to stderr fails, and what is written to stdout fails with a StdoutError, or
    a BrokenPipeError where its reader has gone.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by whoever started the program: what is printed goes nowhere. See also `stdout_is_closed`.
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may hold bytes that are no text; they leave as they came.
        sys.stdout = _rewired(sys.stdout, _Results, errors="surrogateescape")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _rewired(sys.stderr, _Messages, errors="backslashreplace")


def stdout_is_closed() -> bool:
    """Whether the program was started with its stdout closed, as `>&-` does."""
    return sys.__stdout__ is None


def flush_stdout() -> None:
    """Flush stdout at the end; where that fails, give up what could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_stdout()


def discard_stdout() -> None:
    """Point stdout elsewhere: the interpreter flushes it once more while it ends, and would complain."""
    with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def read_stdin(instead: str) -> bytes:
    """All of standard input.

    Args:
        instead: the hint where there is none: what to give in its place.

    Raises:
        UsageError: it is closed or cannot be read.
    """
    if sys.stdin is None:
        raise UsageError("standard input is closed", instead)
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise UsageError(f"standard input cannot be read: {error.strerror or error}", instead) from error


class _Writer(io.RawIOBase):
    """Bytes on their way to a standard stream."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        # Where Python's own buffering is off there is one layer less.
        self._raw: Any = getattr(stream.buffer, "raw", stream.buffer)
        self._stream = stream  # would close the file if it went away

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def fileno(self) -> int:
        return int(self._raw.fileno())


class _Results(_Writer):
    def write(self, data: Any) -> int | None:
        try:
            written: int | None = self._raw.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StdoutError(error.errno, error.strerror) from error
        return written


class _Messages(_Writer):
    """What cannot be written is lost: no progress bar or notice is worth the picture that it is about."""

    def write(self, data: Any) -> int:
        try:
            # None where the terminal is set not to wait, and is busy.
            return self._raw.write(data) or len(data)
        except OSError:
            return len(data)


def _rewired(stream: io.TextIOWrapper, writer: type[_Writer], errors: str) -> io.TextIOWrapper:
    """The stream once more, on a writer of ours."""
    return io.TextIOWrapper(
        io.BufferedWriter(writer(stream)),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
