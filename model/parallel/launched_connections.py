"""Connections between ranks that a launcher has started.

Commands are pickled, and a sender of pickles can run code. Everyone who reaches a launcher's port can read its store.
So the store holds only the address of rank 0, and a message is unpickled only if its sender is known:

- On one host, rank 0 listens on a socket file in a folder of its user alone. Other ranks connect only if the folder
  belongs to their user, too.
- On several hosts, rank 0 listens on the rendezvous address alone. Both sides prove that they know the key that the
  user has set on all hosts (`SENSENOVA_RANK_KEY`), and every message carries a code that only they can make (HMAC).

The messages are not encrypted. Tensors go through PyTorch's process groups, which do not pickle them.

Importing this module does not import PyTorch.
"""

import hashlib
import hmac
import json
import os
import pickle
import secrets
import shutil
import socket
import stat
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any, Protocol

from config.operating_system import is_private
from model.errors import DeviceError, RankError

KEY_VARIABLE = "SENSENOVA_RANK_KEY"
LEAST_KEY_LETTERS = 16
HANDSHAKE_SECONDS = 10.0
"""Time for a peer to prove that it knows the key. Longer, a stranger could keep rank 0 from its ranks."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NONCE_BYTES = CODE_BYTES = 32
MAX_MESSAGE_BYTES = 2**31


class RankConnection(Protocol):
    """A connection that carries Python values."""

    def send(self, message: Any) -> None:
        """Send a value."""

    def recv(self) -> Any:
        """Wait for a value. Raises EOFError or OSError if the connection is closed."""

    def fileno(self) -> int:
        """Return the descriptor, to wait for."""

    def close(self) -> None:
        """Close the connection."""


def accept_ranks(size: int, publish: Callable[[str], None]) -> dict[int, RankConnection]:
    """Accept the connections of ranks 1 to `size` - 1, on rank 0.

    Args:
        publish: called with the address, for the launcher's store.

    Raises:
        DeviceError: the ranks are on several hosts, and the key is missing or the address is not of this host.
    """
    if _is_one_host():
        return _accept_here(size, publish)
    return _accept_from_network(size, publish, _key())


def connect(address: str, rank: int) -> RankConnection:
    """Connect to the address that rank 0 has published.

    Raises:
        RankError: the address is not of a socket of this user, or its owner does not know the key.
        DeviceError: the key is missing.
        OSError: nobody listens there.
    """
    try:
        kind, *place = json.loads(address)
    except (ValueError, TypeError, RecursionError):
        kind, place = "", []
    if kind == "file" and len(place) == 1 and isinstance(place[0], str):
        _require_own_folder(Path(place[0]).parent)
        connection = Client(place[0], "AF_UNIX")
        connection.send_bytes(struct.pack(">I", rank))
        return connection
    if kind == "network" and len(place) == 2 and isinstance(place[0], str) and isinstance(place[1], int):
        sock = socket.create_connection((place[0], place[1]), timeout=HANDSHAKE_SECONDS)
        try:
            return _greet(sock, _key(), rank)
        except BaseException:
            sock.close()
            raise
    raise RankError("the launcher's store has no address of rank 0", "end the other programs that use its port")


def _is_one_host() -> bool:
    local = os.environ.get("LOCAL_WORLD_SIZE")
    return local == os.environ["WORLD_SIZE"] or os.environ["MASTER_ADDR"] in LOOPBACK


def _key() -> bytes:
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < LEAST_KEY_LETTERS:
        raise DeviceError(
            f"the ranks are on several hosts, and {KEY_VARIABLE} is {'too short' if key else 'not set'}",
            f"set it to the same random text of at least {LEAST_KEY_LETTERS} letters on all hosts: "
            "ranks without it could be strangers",
        )
    return key.encode()


# One host


def _accept_here(size: int, publish: Callable[[str], None]) -> dict[int, RankConnection]:
    folder = Path(tempfile.mkdtemp(prefix="sensenova-"))  # 0700
    try:
        path = str(folder / "ranks")
        connections: dict[int, RankConnection] = {}
        with Listener(path, "AF_UNIX", backlog=size) as listener:
            publish(json.dumps(["file", path]))
            while len(connections) < size - 1:
                connection = listener.accept()
                connections[struct.unpack(">I", connection.recv_bytes(4))[0]] = connection
        return connections
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_own_folder(folder: Path) -> None:
    try:
        status = folder.lstat()
    except OSError as error:
        raise RankError(
            f"rank 0 listens in {folder}, which cannot be read here: {error.strerror}",
            f"if the ranks are on several hosts, set LOCAL_WORLD_SIZE and {KEY_VARIABLE}",
        ) from error
    if not stat.S_ISDIR(status.st_mode) or not is_private(status):
        raise RankError(
            f"the launcher's store names the folder {folder}, which does not belong to this user alone",
            "another user may have changed the store: run the launcher on a port of its own",
        )


# Several hosts


def _accept_from_network(size: int, publish: Callable[[str], None], key: bytes) -> dict[int, RankConnection]:
    host = os.environ["MASTER_ADDR"]
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=size)
    except OSError as error:
        raise DeviceError(
            f"rank 0 cannot listen on its address {host} (MASTER_ADDR): {error.strerror or error}",
            "start rank 0 on the host that has this address",
        ) from error
    connections: dict[int, RankConnection] = {}
    with listener:
        publish(json.dumps(["network", host, listener.getsockname()[1]]))
        while len(connections) < size - 1:
            sock, _ = listener.accept()
            try:
                rank, connection = _challenge(sock, key)
            except (OSError, EOFError, RankError):  # a stranger, or a rank with another key, which reports it
                sock.close()
                continue
            if not 0 < rank < size or rank in connections:
                sock.close()
                continue
            connections[rank] = connection
    return connections


def _challenge(sock: socket.socket, key: bytes) -> tuple[int, "SignedConnection"]:
    """Let a peer prove that it knows the key, and prove it, too; return the peer's rank and the connection."""
    sock.settimeout(HANDSHAKE_SECONDS)
    nonce = secrets.token_bytes(NONCE_BYTES)
    sock.sendall(nonce)
    answer = _receive(sock, NONCE_BYTES + 4 + CODE_BYTES)
    theirs, rank = answer[:NONCE_BYTES], answer[NONCE_BYTES : NONCE_BYTES + 4]
    shared = _code(key, b"sensenova ranks", nonce, theirs)
    if not hmac.compare_digest(answer[NONCE_BYTES + 4 :], _code(shared, b"rank", rank)):
        raise RankError("a peer does not know the key")
    sock.sendall(_code(shared, b"rank 0", rank))
    sock.settimeout(None)
    return struct.unpack(">I", rank)[0], SignedConnection(sock, shared, sends=b"0", receives=rank)


def _greet(sock: socket.socket, key: bytes, rank: int) -> "SignedConnection":
    """Prove to rank 0 that this rank knows the key, and check its proof."""
    nonce = _receive(sock, NONCE_BYTES)
    own, number = secrets.token_bytes(NONCE_BYTES), struct.pack(">I", rank)
    shared = _code(key, b"sensenova ranks", nonce, own)
    sock.sendall(own + number + _code(shared, b"rank", number))
    try:
        proof = _receive(sock, CODE_BYTES)
    except (OSError, EOFError):
        proof = b""
    if not hmac.compare_digest(proof, _code(shared, b"rank 0", number)):
        raise RankError(f"rank 0 does not know the key of rank {rank}", f"set {KEY_VARIABLE} to one text on all hosts")
    sock.settimeout(None)
    return SignedConnection(sock, shared, sends=number, receives=b"0")


class SignedConnection:
    """A `RankConnection` over a network. A message with a wrong code, repeated or out of order, closes it unread."""

    def __init__(self, sock: socket.socket, key: bytes, *, sends: bytes, receives: bytes) -> None:
        self._socket = sock
        self._key = key
        self._sends, self._receives = sends, receives
        self._sent = self._received = 0

    def send(self, message: Any) -> None:
        """Send a value, as `RankConnection.send`."""
        data = pickle.dumps(message)
        code = _code(self._key, self._sends, struct.pack(">Q", self._sent), data)
        self._sent += 1
        self._socket.sendall(struct.pack(">Q", len(data)) + code + data)

    def recv(self) -> Any:
        """Wait for a value, as `RankConnection.recv`."""
        header = _receive(self._socket, 8 + CODE_BYTES)
        length = struct.unpack(">Q", header[:8])[0]
        if length > MAX_MESSAGE_BYTES:
            raise EOFError
        data = _receive(self._socket, length)
        code = _code(self._key, self._receives, struct.pack(">Q", self._received), data)
        if not hmac.compare_digest(header[8:], code):
            raise EOFError
        self._received += 1
        return pickle.loads(data)

    def fileno(self) -> int:
        """Return the descriptor, as `RankConnection.fileno`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self._socket.close()


def _code(key: bytes, *parts: bytes) -> bytes:
    """Return the authentication code of a message."""
    # The lengths keep parts apart, so that no two lists of parts have the same code.
    return hmac.new(key, b"".join(struct.pack(">Q", len(part)) + part for part in parts), hashlib.sha256).digest()


def _receive(sock: socket.socket, count: int) -> bytes:
    """Return exactly `count` bytes. Raises EOFError if the connection ends before."""
    data = bytearray()
    while len(data) < count:
        part = sock.recv(min(count - len(data), 2**20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
