"""Standard streams, which may be closed or full, or whose reader may have ended."""

import codecs
import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

from sensenova_cli.errors import UsageError

MAX_TEXT_BYTES = 16 * 2**20
"""Most bytes of a prompt, a prompt file or a line of a script."""
MAX_INPUT_BYTES = 256 * 2**20
"""Maximum number of bytes of standard input, and of a picture file."""
STDIN = "-"
"""The word that means standard input in place of a prompt or a file."""
CLIPBOARD = "clipboard"
"""The word that means the desktop's clipboard in place of a picture file. A file with this name is `./clipboard`."""


RESULT_ERRORS = "sensenova-results"
"""Name of the error handler of stdout, see `_encode_rest`."""


class StdoutError(OSError):
    """An error for results that cannot be written to stdout, for example because the disk is full."""


def prepare_streams() -> None:
    """Make stdout and stderr safe to write to, even if they are closed or broken.

    Afterwards writing to stderr never fails. Writing to stdout raises StdoutError, or BrokenPipeError if the reader
    has ended.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # The stream was closed before the program started; discard the output. See also `stdout_is_closed`.
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Programs get UTF-8: JSON is UTF-8, and so are the bytes of file names. A terminal gets its own encoding.
        encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
        sys.stdout = _rewired(sys.stdout, _ResultWriter, encoding, errors=RESULT_ERRORS)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _rewired(sys.stderr, _MessageWriter, sys.stderr.encoding, errors="backslashreplace")


def _encode_rest(error: UnicodeError) -> tuple[bytes | str, int]:
    """Write bytes of file names that are not text unchanged, and escape characters that the encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    rest = error.object[error.start : error.end]
    encoded = b"".join(
        bytes([ord(char) - 0xDC00]) if 0xDC80 <= ord(char) <= 0xDCFF else char.encode("ascii", "backslashreplace")
        for char in rest
    )
    return encoded, error.end


codecs.register_error(RESULT_ERRORS, _encode_rest)


def stdout_is_closed() -> bool:
    """Return whether the program was started with a closed stdout, as by `>&-`."""
    return sys.__stdout__ is None


def missing_terminal() -> str | None:
    """Return the stream that a program in the terminal would need and that is not one; None if it could run."""
    streams = {"standard input": sys.stdin, "stdout": sys.stdout}
    return next((name for name, stream in streams.items() if stream is None or not stream.isatty()), None)


def flush_stdout() -> None:
    """Flush stdout at the end of the program; if that fails, discard the rest."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_stdout()


def discard_stdout() -> None:
    """Redirect stdout to the null device: at exit the interpreter flushes it again and would print an error."""
    with contextlib.suppress(OSError), Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())


def read_stdin(hint: str, limit: int = MAX_INPUT_BYTES) -> bytes:
    """Read all of standard input.

    Args:
        hint: hint of the error. It suggests a replacement for standard input.
        limit: most bytes to read.

    Raises:
        UsageError: standard input is closed, cannot be read, or has more bytes.
    """
    if sys.stdin is None:
        raise UsageError("standard input is closed", hint)
    try:
        content = sys.stdin.buffer.read(limit + 1)
    except OSError as error:
        raise UsageError(f"standard input cannot be read: {error.strerror or error}", hint) from error
    if len(content) > limit:
        raise UsageError(f"standard input has more than {limit:,} bytes", hint)
    return content


class _Writer(io.RawIOBase):
    """A raw stream that writes to a standard stream."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        # `python -u` leaves out the buffer.
        self._raw: Any = getattr(stream.buffer, "raw", stream.buffer)
        self._stream = stream  # keeps the file open

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def fileno(self) -> int:
        return int(self._raw.fileno())


class _ResultWriter(_Writer):
    """A writer for stdout: a failed write raises StdoutError."""

    def write(self, data: Any) -> int | None:
        try:
            written: int | None = self._raw.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StdoutError(error.errno, error.strerror) from error
        return written


class _MessageWriter(_Writer):
    """A writer for stderr: a failed write is ignored, because the picture matters more than a message about it."""

    def write(self, data: Any) -> int:
        try:
            # `write` returns None if the terminal is non-blocking and busy.
            return self._raw.write(data) or len(data)
        except OSError:
            return len(data)


def _rewired(stream: io.TextIOWrapper, writer: type[_Writer], encoding: str, errors: str) -> io.TextIOWrapper:
    """Return a copy of the stream that writes through `writer`."""
    return io.TextIOWrapper(
        io.BufferedWriter(writer(stream)),
        encoding=encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
