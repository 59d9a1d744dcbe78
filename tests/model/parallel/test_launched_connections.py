"""Connections between a launcher's ranks: nothing from a stranger is unpickled."""

import json
import os
import pickle
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from model.errors import DeviceError, RankError
from model.parallel.launched_connections import KEY_VARIABLE, RankConnection, SignedConnection, accept_ranks, connect
from tests.waiting import PATIENCE

KEY = "0123456789abcdef0123456789abcdef"


class Bomb:
    """A value whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def two_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher's variables for ranks on two hosts, whose address is of this one."""
    for name, value in (
        ("WORLD_SIZE", "2"),
        ("LOCAL_WORLD_SIZE", "1"),
        ("MASTER_ADDR", socket.gethostbyname(socket.gethostname())),
        (KEY_VARIABLE, KEY),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("model.parallel.launched_connections.LOOPBACK", ())


@pytest.fixture
def one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher's variables for two ranks on this host."""
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "10.0.0.1")):
        monkeypatch.setenv(name, value)


class Rank0(threading.Thread):
    """Rank 0, which accepts the other rank in a thread."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._addresses: SimpleQueue[str] = SimpleQueue()
        self.connections: dict[int, RankConnection] = {}
        self.start()
        self.address = self._addresses.get(timeout=PATIENCE)

    def run(self) -> None:
        self.connections = accept_ranks(2, self._addresses.put)

    @property
    def rank_1(self) -> RankConnection:
        """The connection to rank 1."""
        self.join(PATIENCE)
        return self.connections[1]


def exchange(rank_0: Rank0) -> None:
    """Connect rank 1, and send values both ways."""
    rank_1 = connect(rank_0.address, 1)
    for value in ({"a": [1, 2]}, "x" * 3_000_000):
        received: list[Any] = []
        reader = threading.Thread(target=lambda received=received: received.append(rank_1.recv()))
        reader.start()
        rank_0.rank_1.send(value)
        reader.join(PATIENCE)
        assert received == [value]
    rank_1.send("reply")
    assert rank_0.rank_1.recv() == "reply"
    rank_1.close()
    with pytest.raises(EOFError):
        rank_0.rank_1.recv()


def test_ranks_of_one_host_use_a_private_file(one_host: None) -> None:
    rank_0 = Rank0()
    kind, path = json.loads(rank_0.address)
    assert kind == "file" and Path(path).parent.stat().st_mode & 0o077 == 0
    exchange(rank_0)
    assert not Path(path).parent.exists()


def test_ranks_of_several_hosts_share_a_key(two_hosts: None) -> None:
    rank_0 = Rank0()
    kind, host, _ = json.loads(rank_0.address)
    assert (kind, host) == ("network", os.environ["MASTER_ADDR"])
    assert KEY not in rank_0.address
    exchange(rank_0)


@pytest.mark.parametrize("key", ["", "short"])
def test_several_hosts_need_a_key(two_hosts: None, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(DeviceError, match=KEY_VARIABLE):
        accept_ranks(2, lambda address: None)
    with pytest.raises(DeviceError, match=KEY_VARIABLE), socket.create_server(("127.0.0.1", 0)) as listener:
        connect(json.dumps(["network", *listener.getsockname()]), 1)


def test_a_stranger_is_not_read_and_does_not_stop_rank_0(two_hosts: None, tmp_path: Path) -> None:
    rank_0 = Rank0()
    place = tuple(json.loads(rank_0.address)[1:])
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    for attack in (b"", bomb, bytes(68), bytes(36) + bomb[:32] + bomb):
        with socket.create_connection(place, timeout=PATIENCE) as stranger:
            stranger.sendall(attack)
    exchange(rank_0)
    assert not (tmp_path / "exploded").exists()


def test_a_rank_with_another_key_is_told(two_hosts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rank_0 = Rank0()
    monkeypatch.setenv(KEY_VARIABLE, KEY[::-1])
    with pytest.raises(RankError, match="does not know the key"):
        connect(rank_0.address, 1)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    exchange(rank_0)


def test_a_rank_does_not_read_a_stranger_who_changed_the_store(two_hosts: None, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def attack() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(bytes(64) + struct.pack(">Q", len(bomb)) + bytes(32) + bomb)

        thread = threading.Thread(target=attack)
        thread.start()
        with pytest.raises((RankError, OSError)):
            connect(json.dumps(["network", *listener.getsockname()]), 1).recv()
        thread.join(PATIENCE)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("change", ["data", "again"])
def test_a_changed_or_repeated_message_is_not_read(tmp_path: Path, change: str) -> None:
    wire, theirs = socket.socketpair()
    sent = bytearray()
    ours, sink = socket.socketpair()
    sender = SignedConnection(ours, b"k" * 32, sends=b"0", receives=b"1")
    sender.send(Bomb(tmp_path / "exploded"))
    sent += sink.recv(100_000)
    receiver = SignedConnection(theirs, b"k" * 32, sends=b"1", receives=b"0")
    if change == "data":
        sent[-3] ^= 1
    else:
        wire.sendall(sent)
        receiver.recv()
        (tmp_path / "exploded").rmdir()
    wire.sendall(sent)
    with pytest.raises(EOFError):
        receiver.recv()
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "address", ["", "[]", "{}", "none", '["file"]', '["network", 1, 2]', '["file", 7]', "\0", "[" * 9999]
)
def test_a_damaged_address(two_hosts: None, address: str) -> None:
    with pytest.raises(RankError):
        connect(address, 1)


def test_a_socket_in_a_folder_of_others_is_not_used(two_hosts: None, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(RankError, match="does not belong to this user alone"):
        connect(json.dumps(["file", str(tmp_path / "ranks")]), 1)
    with pytest.raises(RankError, match="cannot be read here"):
        connect(json.dumps(["file", str(tmp_path / "none" / "ranks")]), 1)
