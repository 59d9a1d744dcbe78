"""`sensenova mcp` with the official client over a real process, on the fake engine."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from PIL import Image

from sensenova_cli.mcp.server import MAX_CONTENT, _encoded
from sensenova_cli.outputs.picture_files import read_record
from tests.cli.conftest import home
from tests.cli.harness import REPOSITORY
from tests.waiting import PATIENCE

__all__ = ["home"]

pytestmark = pytest.mark.slow
HANDSHAKE = {
    "jsonrpc": "2.0",
    "id": "hello",
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}


def talk(work: Callable[[Client], Awaitable[None]], *words: str, mode: str = "auto", **variables: str) -> None:
    """Start the server, and run a conversation of its client."""

    async def run() -> None:
        command = StdioServerParameters(
            command=sys.executable, args=["-m", "tests.cli.fake_program", "mcp", *words], env=environment(**variables)
        )
        with anyio.fail_after(90):
            async with Client(stdio_client(command), mode=mode) as client:
                await work(client)

    anyio.run(run)


def start(*words: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start the server, to send it bytes."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cli.fake_program", "mcp", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
    )


def send(process: subprocess.Popen[bytes], *messages: Any) -> None:
    assert process.stdin is not None
    for message in messages:
        process.stdin.write((message if isinstance(message, bytes) else json.dumps(message).encode()) + b"\n")
    process.stdin.flush()


def texts(result: Any) -> str:
    return "\n".join(each.text for each in result.content if each.type == "text")


def images(result: Any) -> list[Image.Image]:
    found = [each for each in result.content if each.type == "image"]
    return [Image.open(io.BytesIO(base64.b64decode(each.data))) for each in found]


def in_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_conversation(home: Path, tmp_path: Path, mode: str) -> None:
    steps: list[tuple[float, float | None, str | None]] = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        steps.append((done, total, message))

    async def work(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["generate", "edit", "describe"]
        assert tools["edit"].input_schema["required"] == ["prompt", "images"]
        assert tools["describe"].annotations is not None and tools["describe"].annotations.read_only_hint

        drawn = await client.call_tool("generate", {"prompt": "a cat", "seed": 7}, progress_callback=on_progress)
        file = home / "out" / "a-cat-7.png"
        assert not drawn.is_error and texts(drawn) == f"{file}: 64x64, seed 7"
        assert [image.size for image in images(drawn)] == [(64, 64)]
        assert drawn.structured_content["pictures"] == [{"path": str(file), "size": "64x64", "seed": 7}]
        record = read_record(file)
        assert record is not None and (record.prompt, record.settings.seed) == ("a cat", 7)

        edited = await client.call_tool(
            "edit", {"prompt": "make it red", "images": [{"path": str(file)}], "num_images": 2, "num_steps": 2}
        )
        assert not edited.is_error and len(images(edited)) == 2
        assert all(Path(each["path"]).is_file() for each in edited.structured_content["pictures"])

        sent = [{"data": in_base64(Image.new("RGB", (32, 32), "red"))}]
        described = await client.call_tool("describe", {"images": sent, "question": "Which animal is it?"})
        assert (described.is_error, texts(described)) == (False, "It is a cat.")

    talk(work, "-o", "out/", mode=mode, FAKE_STEP_SECONDS="0.02")
    numbers = [done for done, _, _ in steps]
    assert numbers == sorted(set(numbers)) and len(numbers) >= 3
    assert steps[-1] == (5, 5, "step 4/4")


def test_files_outside_of_the_allowed_folders_are_not_read(home: Path, tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret.png"
    allowed.mkdir()
    Image.new("RGB", (64, 64)).save(secret)
    Image.new("RGB", (64, 64)).save(allowed / "cat.png")
    (allowed / "link.png").symlink_to(secret)
    (allowed / "text.png").write_text("no picture")
    os.mkfifo(allowed / "pipe.png")

    async def work(client: Client) -> None:
        async def ask(path: str) -> str:
            result = await client.call_tool("describe", {"images": [{"path": path}]})
            return texts(result) if result.is_error else ""

        assert await ask(str(allowed / "cat.png")) == ""
        outside = [str(secret), str(tmp_path / "gone.png"), str(allowed / "link.png"), f"{allowed}/../secret.png"]
        outside += ["cat.png", "~/cat.png", "/etc/passwd", "", "a\0b", "/" + "x" * 5000, "http://host/cat.png"]
        for path in outside:
            told = await ask(path)
            assert told.startswith(f"images[0]: {path[:200]}".rstrip()) or "\0" in path
            assert "is not in a folder that this server may read" in told
        assert "there is no picture file" in await ask(str(allowed / "gone.png"))
        assert "there is no picture file" in await ask(str(allowed / "pipe.png"))
        assert "there is no picture file" in await ask(str(allowed))
        assert "is not a picture" in await ask(str(allowed / "text.png"))

    talk(work, "--allow", str(allowed))


WRONG = [
    ("generate", {}, "prompt is missing"),
    ("generate", {"prompt": 5}, "prompt must be text"),
    ("generate", {"prompt": " "}, "the prompt is empty"),
    ("generate", {"prompt": "x" * 70_000}, "the limit is 65,536"),
    ("generate", {"prompt": "a <img> cat"}, "one of the model's own tokens"),
    ("generate", {"promt": "a cat"}, "did you mean prompt?"),
    ("generate", {"prompt": "a cat", "num_steps": 0}, '"num_steps": 0: must be a whole number from 1 to 1000'),
    ("generate", {"prompt": "a cat", "num_images": 11}, "a call makes 10 pictures at most"),
    ("generate", {"prompt": "a cat", "size": "60x60"}, "multiples of 32"),
    ("generate", {"prompt": "a cat", "model": "other"}, "generate has no argument 'model'"),
    ("edit", {"prompt": "red"}, "images must be a list of pictures"),
    ("edit", {"prompt": "red", "images": [{}]}, "images[0] is not a picture"),
    ("edit", {"prompt": "red", "images": [{"data": "%%"}]}, "images[0]: data is not base64"),
    ("edit", {"prompt": "red", "images": [{"data": "aGVsbG8="}]}, "images[0] is not a picture"),
    ("describe", {"images": [{"data": ""}] * 17}, "17 pictures are too many"),
]


def test_wrong_arguments_are_results(home: Path) -> None:
    async def work(client: Client) -> None:
        for tool, arguments, message in WRONG:
            result = await client.call_tool(tool, arguments)
            assert result.is_error and message in texts(result), (tool, message, texts(result))
        with pytest.raises(MCPError, match="there is no tool 'remove'"):
            await client.call_tool("remove", {})
        assert not (await client.call_tool("generate", {"prompt": "a cat"})).is_error

    talk(work)


def test_a_cancelled_call_stops(home: Path) -> None:
    async def work(client: Client) -> None:
        reached = anyio.Event()

        async def on_progress(done: float, total: float | None, message: str | None) -> None:
            if message == "step 2/1000":
                reached.set()

        async with anyio.create_task_group() as group:

            async def call() -> None:
                await client.call_tool(
                    "generate", {"prompt": "a cat", "num_steps": 1000}, progress_callback=on_progress
                )

            group.start_soon(call)
            await reached.wait()
            group.cancel_scope.cancel()
        # Of the cancelled call, 998 steps of 0.5 s are left.
        result = await client.call_tool("generate", {"prompt": "a dog", "num_steps": 1})
        assert not result.is_error

    began = time.monotonic()
    talk(work, "-o", "out/", FAKE_STEP_SECONDS="0.5")
    assert time.monotonic() - began < PATIENCE
    assert [path.name[:5] for path in Path("out").iterdir()] == ["a-dog"]


def test_a_failing_model_is_a_result(home: Path) -> None:
    async def work(client: Client) -> None:
        for _ in range(2):
            result = await client.call_tool("generate", {"prompt": "a cat"})
            assert result.is_error and "no-such-folder" in texts(result)

    talk(work, "--model", "./no-such-folder")


def test_nonsense_does_not_end_the_server(home: Path) -> None:
    process = start()
    call = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "generate", "arguments": []}}
    send(
        process,
        *(b"nonsense", b"{}", b"[" * 100_000, b"\xff\xfe\0", b'{"jsonrpc": "2.0", "id": {}, "method": 5}'),
        HANDSHAKE,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "nonsense"},
        call,
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}},
        {"jsonrpc": "2.0", "id": 4, "method": "tools/list"},
    )
    assert process.stdout is not None and process.stdin is not None
    answers: dict[Any, Any] = {}
    while 4 not in answers:
        answer = json.loads(process.stdout.readline())
        answers[answer.get("id")] = answer
    process.stdin.close()
    assert process.wait(timeout=PATIENCE) == 0
    assert answers["hello"]["result"]["serverInfo"]["name"] == "sensenova"
    assert answers[2]["error"]["code"] == -32601 and answers[3]["error"]["code"] == -32602
    assert [tool["name"] for tool in answers[4]["result"]["tools"]] == ["generate", "edit", "describe"]


@pytest.mark.parametrize(("end", "code"), [("EOF", 0), ("SIGINT", 130), ("SIGTERM", 130)])
def test_the_end_stops_a_call(home: Path, end: str, code: int) -> None:
    process = start("-o", "out/", FAKE_STEP_SECONDS="1")
    arguments = {"prompt": "a cat", "num_steps": 900}
    send(process, HANDSHAKE, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    params = {"name": "generate", "arguments": arguments}
    send(process, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    assert process.stderr.readline() == b"a step has begun\n"
    if end == "EOF":
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, end))
    assert process.wait(timeout=PATIENCE) == code
    for line in process.stdout:
        assert json.loads(line)["jsonrpc"] == "2.0", "stdout has nothing but the protocol"
    assert b"Traceback" not in process.stderr.read()
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--allow", "gone"), "--allow gone: there is no such folder"),
        (("-o", "cat.png"), "-o cat.png is not a folder"),
        (("-o", "-"), "-o - is not a folder"),
    ],
)
def test_wrong_options(home: Path, words: Sequence[str], message: str) -> None:
    process = start(*words)
    output, problem = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and output == b"" and message in problem.decode()


def test_the_help_names_only_folders_for_results(home: Path) -> None:
    output, _ = start("--help").communicate(timeout=PATIENCE)
    line = next(line for line in output.decode().splitlines() if "--output" in line)
    assert "FOLDER/" in line and "Folder of the results." in line and "for stdout" not in output.decode()


def test_large_pictures_are_reduced() -> None:
    noise = Image.frombytes("RGB", (2048, 2048), os.urandom(3 * 2048 * 2048))
    data, kind, size = _encoded(noise)
    assert len(data) <= MAX_CONTENT and kind == "image/jpeg" and Image.open(io.BytesIO(data)).size == size
    data, kind, size = _encoded(Image.new("RGB", (2048, 1024)))
    assert (kind, size) == ("image/png", (2048, 1024))
