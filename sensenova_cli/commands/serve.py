"""`sensenova serve`: keeps a model loaded, and answers the HTTP requests of OpenAI's and other clients."""

import asyncio
import errno
import importlib.util
import os
import re
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import SenseNovaError
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import ENGINE_OPTIONS, REMOTE_OPTIONS, SERVE_OPTIONS, with_options

if TYPE_CHECKING:
    from config.settings import ServeSettings

KEY_VARIABLE = "SENSENOVA_SERVE_API_KEY"
LIBRARIES = ("starlette", "uvicorn", "python_multipart")
LOAD_OPTIONS = tuple(name for name in ENGINE_OPTIONS if name not in REMOTE_OPTIONS)


@with_options(*SERVE_OPTIONS, *LOAD_OPTIONS, "enable_cpu_offload", "profile", "quiet", "debug", "no_color")
def serve(flags: Flags) -> None:
    """Serve a model to OpenAI clients, other tools and a web page.

    Examples
      sensenova serve
      sensenova serve --model SenseNova/SenseNova-U1-8B-MoT --quantization fp8
      sensenova serve --host 0.0.0.0 --api-key-file ~/.sensenova-key
      SENSENOVA_SERVE_PORT=9000 sensenova serve --profile gpu-24gb

    The model is loaded once. One request runs at a time; the others wait in a
    queue. Only this machine can connect, unless --host says otherwise. Ctrl-C
    or SIGTERM finishes the running request, and a second one ends at once.
    """
    _require_libraries()
    # `server = "local"` in the user file is for the other commands. This one loads the model that they use.
    flags = replace(flags, settings={**flags.settings, "server": "off"})
    from model import is_loopback

    settings, layers = flags.serve_settings(), flags.layers()
    key = _read_key(settings, flags)
    if key is None and settings.key and not is_loopback(settings.host):
        raise UsageError(
            f"other machines could use the server at {settings.host}, and there is no key",
            "name a file that contains one with --api-key-file, or allow everybody with --no-key",
        )
    # Imported here, after `_require_libraries`, because these modules import the server's libraries.
    from sensenova_cli.serve.guard import Guard
    from sensenova_cli.serve.start import Announcement, run_server

    guard = Guard(
        key,
        _names("allow-host", settings.allow_host, r"[^/:]+", "pictures.example.org"),
        _names("cors-origin", settings.cors_origin, r"https?://[^/]+", "https://app.example.org"),
    )
    _require_loras(settings)
    listener = _listen(settings)
    announcement = Announcement(key is not None, settings.api_key_file, is_loopback(settings.host))
    failure = asyncio.run(run_server(settings, layers, guard, listener, announcement, quiet=flags.quiet))
    if failure is not None:
        raise failure if isinstance(failure, Exception) else SenseNovaError(f"loading ended: {failure!r}")


def _require_libraries() -> None:
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"serving needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            "in the checkout, run: pip install '.[serve]'",
        )


def _require_loras(settings: "ServeSettings") -> None:
    """Raise UsageError if a LoRA that clients may choose is a file that does not exist. A Hub id is fetched later."""
    from model import is_hub_id
    from sensenova_cli.serve.service import parse_named_loras

    for name, lora in parse_named_loras(settings.loras).items():
        on_hub = is_hub_id(lora.name) and not lora.name.endswith(".safetensors")
        if not on_hub and not Path(lora.name).expanduser().exists():
            raise UsageError(f"--loras {name}={lora.name}: there is no such file", "check its name")


def _read_key(settings: "ServeSettings", flags: Flags) -> str | None:
    """Return the key that clients must send, or None.

    Raises:
        UsageError: the key's file cannot be read, the key is not usable, or a key and `--no-key` are given.
    """
    from model import is_usable_key

    key = os.environ.get(KEY_VARIABLE) or None
    source = KEY_VARIABLE
    if settings.api_key_file is not None:
        file, source = Path(settings.api_key_file).expanduser(), settings.api_key_file
        try:
            key = file.read_text(encoding="utf-8").strip()
            mode = file.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UsageError(
                f"the key file {source} cannot be read: {reason}",
                f"make one: (umask 077; openssl rand -hex 24 > {source})",
            ) from None
        if mode & (stat.S_IRGRP | stat.S_IROTH) and not flags.quiet:
            from sensenova_cli.render.turn_view import TurnView

            TurnView(quiet=False).notice(f"other users of this machine can read the key file: chmod 600 {source}")
    if key is None:
        return None
    if not is_usable_key(key):
        raise UsageError(f"{source} contains no usable key", "a key is one word of letters and digits")
    if not settings.key:
        raise UsageError(f"--no-key and the key in {source} contradict each other", "give one of them")
    return key


def _listen(settings: "ServeSettings") -> socket.socket:
    from sensenova_cli.serve.server import listen  # imports the server's libraries

    try:
        return listen(settings.host, settings.port)
    except (OSError, ValueError) as error:  # ValueError: the name cannot be a host name
        hint = "choose another one with --port; 0 takes any free one"
        if isinstance(error, ValueError | socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            hint = "an address is like 127.0.0.1 or 0.0.0.0"
        reason = getattr(error, "strerror", None) or "it is not a host name"
        raise UsageError(f"cannot listen on {settings.host}:{settings.port}: {reason}", hint) from None


def _names(flag: str, text: str | None, form: str, example: str) -> frozenset[str]:
    """Return the names in a text, where commas separate them.

    Raises:
        UsageError: a name is not in the form in which browsers send it, so it would never match.
    """
    names = frozenset(name.strip().lower().rstrip("/") for name in (text or "").split(",") if name.strip())
    for name in names:
        if not re.fullmatch(form, name):
            raise UsageError(f"--{flag} {name} is not understood", f"write it like {example}")
    return names
