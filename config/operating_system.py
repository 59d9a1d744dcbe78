"""What differs between operating systems. Only this module imports modules that one system has, and asks for its name.

Every function has the form `if sys.platform …: … else: …`, which type checkers follow: without `else`, they would look
for modules that the other system does not have.
Windows is not supported; its arms keep a port possible. `.ci/run` checks the types for Windows and macOS, too.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable

if sys.platform != "win32":
    import fcntl
    import resource
    import termios
else:
    import msvcrt
    import socket
    import threading

    _SEEKING = threading.Lock()

NO_LINKS: int = getattr(os, "O_NOFOLLOW", 0)
"""Flag of `os.open`: fail if the file is a link."""
NO_WAITING: int = getattr(os, "O_NONBLOCK", 0)
"""Flag of `os.open`: do not wait for the other end of a pipe."""
BINARY: int = getattr(os, "O_BINARY", 0)
"""Flag of `os.open`: do not translate the ends of lines."""


def is_private(status: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user, and no other user may read or write it.

    Windows has neither owners nor modes in a status. Files in a user's profile folder are private there.
    """
    if sys.platform == "win32":
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


def host_name() -> str:
    """Return the name of this machine in its network."""
    if sys.platform == "win32":
        return socket.gethostname()
    else:
        return os.uname().nodename


def is_locked_by_another(descriptor: int) -> bool:
    """Return whether another process holds an exclusive lock of an open file.

    Raises:
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return True
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        return False
    else:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def lock_byte(descriptor: int, position: int) -> bool:
    """Lock one byte of a file that is open for writing; return False if another process has locked it.

    The byte need not exist. The system ends the locks of a process that ends, and of one that closes the file.

    Raises:
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        try:
            with _SEEKING:
                os.lseek(descriptor, position, os.SEEK_SET)
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
    else:
        return _lock_range(descriptor, 1, position)


def lock_all_bytes(descriptor: int) -> bool:
    """Lock all bytes of a file, as `lock_byte` locks one. On Windows this is not possible, and returns False.

    Raises:
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        return False
    else:
        return _lock_range(descriptor, 0, 0)


def _lock_range(descriptor: int, length: int, start: int) -> bool:
    """Lock a range of bytes on POSIX systems; a length of 0 means all bytes from `start` on."""
    if sys.platform == "win32":
        raise OSError("Windows locks single bytes")
    else:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
            return False
        return True


def terminal_size_report(descriptor: int) -> bytes:
    """Return the kernel's report on a terminal: rows, columns, width and height in pixels, as four unsigned shorts.

    Raises:
        OSError: this is not a terminal, or the system has no such report.
    """
    if sys.platform == "win32":
        raise OSError("Windows does not report the size of a character")
    else:
        return fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8))


def set_echo(descriptor: int, on: bool) -> Callable[[], None]:
    """Turn a terminal's echo of typed keys on or off, and return a function that restores the terminal's modes.

    Typed keys are kept. The function does nothing if the terminal has been closed meanwhile.

    Raises:
        OSError: this is not a terminal, or it is closed, or the system has no such mode.
    """
    if sys.platform == "win32":
        raise OSError("the echo of Windows is not changed")
    else:
        local_modes = 3  # index of the local modes
        try:
            before = termios.tcgetattr(descriptor)
            wanted = list(before)
            wanted[local_modes] = before[local_modes] | termios.ECHO if on else before[local_modes] & ~termios.ECHO
            termios.tcsetattr(descriptor, termios.TCSANOW, wanted)
        except termios.error as error:
            raise OSError(*error.args) from None

        def restore() -> None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(descriptor, termios.TCSANOW, before)

        return restore


def read_at(descriptor: int, view: memoryview, position: int) -> int:
    """Read bytes of an open file from a position on into `view`; return their number, 0 at the end of the file.

    Several threads may read one file.
    """
    if sys.platform == "win32":
        with _SEEKING:
            os.lseek(descriptor, position, os.SEEK_SET)
            data = os.read(descriptor, len(view))
        view[: len(data)] = data
        return len(data)
    else:
        return os.preadv(descriptor, [view], position)


def peak_resident_bytes() -> int | None:
    """Return the most memory that this process had; None where the system does not report it."""
    if sys.platform == "win32":
        return None
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def total_memory() -> int | None:
    """Return the bytes of this machine's memory; None where the system does not report them."""
    if sys.platform == "win32":
        return None
    else:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def seconds_since_boot() -> float:
    """Return the seconds since the machine started, suspended time included.

    Raises:
        OSError: the system has no such clock.
    """
    if sys.platform != "linux":
        raise OSError("only Linux has this clock")
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def clock_ticks() -> int:
    """Return the ticks per second in which Linux counts the time of processes.

    Raises:
        OSError: the system does not count in ticks.
    """
    if sys.platform != "linux":
        raise OSError("only Linux counts in ticks")
    return os.sysconf("SC_CLK_TCK")
