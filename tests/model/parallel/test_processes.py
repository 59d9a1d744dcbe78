"""Ranks: started, kept in step, and ended, whatever happens to one of them; on a CPU."""

import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from config.errors import SettingsError
from model import (
    Answer,
    AnswerRequest,
    CheckpointError,
    DenoisingStep,
    Engine,
    GenerateRequest,
    ImageSettings,
    TextSettings,
    Trace,
)
from model.checkpoint.builtin import DEMO_MODEL
from model.checkpoint.hub import find_checkpoint
from model.checkpoint.named_lora import NamedLora
from model.errors import DeviceError, DeviceMemoryError, RankError, RequestError
from model.events import Picture, PrefixRead, ThinkText
from model.parallel.commands import Rendezvous
from model.parallel.connections import RankConnections
from model.parallel.launch import require_ranks
from tests.model.checkpoint.test_lora import matrices, write_lora

pytestmark = pytest.mark.slow
CAT = GenerateRequest("a cat on a blue background", ImageSettings(size="128x128", num_steps=4))


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_rank(child)]


def is_rank(process: psutil.Process) -> bool:
    """Also one that has ended and is not reaped yet."""
    try:
        return "model.rank_main" in " ".join(process.cmdline())
    except psutil.ZombieProcess:
        return True
    except psutil.NoSuchProcess:
        return False


def picture(engine: Engine, request: GenerateRequest = CAT) -> torch.Tensor:
    trace = Trace()
    list(engine.run(request, trace))
    return trace.pictures[0]


def ask(question: str) -> AnswerRequest:
    return AnswerRequest(question, settings=TextSettings(max_tokens=4))


def wait_until(is_so: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def resident() -> Iterator[list[Engine]]:
    """At most one engine of two ranks, which tests share; closed at the end."""
    engines: list[Engine] = []
    yield engines
    close_all(engines)


def close_all(engines: list[Engine]) -> None:
    while engines:
        engines.pop().close()
    assert children() == []


@pytest.fixture
def shared(resident: list[Engine], tiny_checkpoint: Path) -> Engine:
    """The engine that tests share, loaded again if an earlier test ended its ranks."""
    if not resident or not children():
        close_all(resident)
        resident.append(Engine.load(tiny_checkpoint, device="cpu", tensor_parallel_size=2))
    return resident[0]


@pytest.fixture(autouse=True)
def no_other_ranks(request: pytest.FixtureRequest, resident: list[Engine]) -> None:
    """Close the shared engine before a test with ranks of its own, in whatever order tests run."""
    if "shared" not in request.fixturenames:
        close_all(resident)


def test_the_same_picture_as_one_process(shared: Engine, tiny_checkpoint: Path) -> None:
    alone = picture(Engine.load(tiny_checkpoint, device="cpu"))
    ours = picture(shared)
    assert (ours - alone).norm() / alone.norm() < 2e-2
    assert torch.equal(picture(shared), ours)
    assert shared.device == "cpu, 2 ranks"


def test_a_request_that_is_given_up_ends_on_all_ranks(shared: Engine) -> None:
    whole = picture(shared)
    many = GenerateRequest(CAT.prompt, CAT.settings.model_copy(update={"num_steps": 1000}))
    for count in (0, 1, 2, 5):
        events = shared.run(many)
        for _ in range(count):
            next(events)
        events.close()  # type: ignore[attr-defined]
        assert torch.equal(picture(shared), whole)
    assert not shared.is_lost


def test_thinking_comes_to_the_same_words_every_time(shared: Engine) -> None:
    settings = CAT.settings.model_copy(update={"think": True, "max_think_tokens": 6})
    texts = []
    for _ in range(2):
        events = list(shared.run(GenerateRequest(CAT.prompt, settings)))
        texts += [event.token_ids for event in events if isinstance(event, ThinkText)]
        assert any(isinstance(event, Picture) for event in events)
    assert texts[0] == texts[1] != ()


def test_an_error_of_the_request_leaves_the_ranks_in_step(shared: Engine) -> None:
    with pytest.raises(RequestError, match="placeholders"):
        list(shared.run(AnswerRequest("<image> what is this?")))
    assert not shared.is_lost
    assert any(isinstance(event, Answer) for event in shared.run(ask("hello")))


def test_what_is_kept_is_kept_on_all_ranks(shared: Engine) -> None:
    list(shared.run(ask("one two three")))
    second = [event for event in shared.run(ask("one two four")) if isinstance(event, PrefixRead)]
    assert second[0].reused > 5
    shared.clear_cache()
    third = [event for event in shared.run(ask("one two five")) if isinstance(event, PrefixRead)]
    assert third[0].reused == 0


def test_loras_come_and_go_on_all_ranks(shared: Engine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = picture(shared)
    file = write_lora(tmp_path / "lora.safetensors", matrices(tiny_checkpoint))
    lora = NamedLora(str(file), 1.0)
    shared.use_loras([lora])
    alone = picture(Engine.load(tiny_checkpoint, device="cpu", lora=str(file)))
    ours = picture(shared)
    assert (ours - alone).norm() / alone.norm() < 5e-2 < (ours - before).norm() / before.norm()
    with pytest.raises(CheckpointError, match="there is no LoRA file"):
        shared.use_loras([NamedLora("none.safetensors", 1.0)])
    shared.use_loras([])
    assert torch.equal(picture(shared), before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process's memory as Linux can")
def test_memory_that_runs_out_on_one_rank_only(shared: Engine) -> None:
    import resource

    (child,) = children()
    # Enough for the prompt, but not for the noise of a large picture.
    most = child.memory_info().vms + 16 * 2**20
    resource.prlimit(child.pid, resource.RLIMIT_AS, (most, most))
    began = time.monotonic()
    with pytest.raises(DeviceMemoryError, match="rank 1: out of memory: this request does not fit"):
        picture(shared, GenerateRequest("a cat", ImageSettings(size="2048x2048", num_steps=50)))
    assert time.monotonic() - began < 20
    assert shared.is_lost  # nobody knows what rank 0 was waiting for
    with pytest.raises(RankError, match="were ended: rank 1: out of memory"):
        next(iter(shared.run(CAT)))
    wait_until(lambda: children() == [])


@pytest.mark.skipif(sys.platform != "linux", reason="opens a folder that only rank 0 sees by Linux's /proc")
def test_a_checkpoint_that_one_rank_cannot_see(shared: Engine, tiny_checkpoint: Path) -> None:
    shared.close()
    descriptor = os.open(tiny_checkpoint, os.O_RDONLY)
    try:
        with pytest.raises(CheckpointError, match=r"rank 1: /proc/self/fd/\d+ holds no config.json"):
            Engine.load(f"/proc/self/fd/{descriptor}", device="cpu", tensor_parallel_size=2)
    finally:
        os.close(descriptor)
    assert children() == []


def test_a_killed_rank_is_named_and_nothing_is_left(tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cpu", cfg_parallel_size=2)
    (child,) = children()
    many = GenerateRequest(CAT.prompt, CAT.settings.model_copy(update={"num_steps": 1000}))
    clock = 0.0
    with pytest.raises(RankError, match=r"rank 1 of 2 was killed \(SIGKILL\)\nload the model again"):
        for event in engine.run(many):
            if isinstance(event, DenoisingStep) and event.step == 3:
                child.kill()
                clock = time.monotonic()
    assert time.monotonic() - clock < 10
    assert engine.is_lost
    with pytest.raises(RankError, match="the processes that share the model were ended: rank 1 of 2 was killed"):
        next(iter(engine.run(CAT)))
    engine.close()
    assert children() == []


@pytest.mark.parametrize("arbitrary", [False, True], ids=["an exchange failed", "an exchange ended anyhow"])
def test_a_lost_rank_s_error_may_be_kept(
    arbitrary: bool, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames it came through hold nothing: on GPUs the next model could not be loaded before they are gone. There
    an exchange with a rank that is lost ends with arbitrary numbers, and the turn goes on until that is known."""
    engine = Engine.load(tiny_checkpoint, device="cpu", cfg_parallel_size=2)
    (child,) = children()
    drawn_with = weakref.ref(engine._runner.model.backend)
    many = GenerateRequest(CAT.prompt, CAT.settings.model_copy(update={"num_steps": 1000}))
    with pytest.raises(RankError, match="rank 1 of 2 was killed") as caught:
        for event in engine.run(many):
            if isinstance(event, DenoisingStep) and event.step == 3:
                child.kill()
                if arbitrary:
                    monkeypatch.setattr(
                        type(engine._runner.model.backend.group),
                        "all_gather",
                        lambda group, branches, predicted: predicted.expand(len(branches), -1, -1),
                    )
    ranks = engine._ranks
    engine.close()
    assert drawn_with() is None
    assert ranks is not None and ranks.lost is not None and ranks.lost.__traceback__ is None
    assert caught.value.__traceback__ is not None


def test_a_rank_lost_before_it_has_joined(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = RankConnections.send

    def kill_and_send(connections: RankConnections, message: object) -> None:
        if isinstance(message, Rendezvous):
            for child in children():
                child.kill()
        send(connections, message)

    monkeypatch.setattr(RankConnections, "send", kill_and_send)
    clock = time.monotonic()
    with pytest.raises(RankError, match=r"rank 1 of 2 was killed \(SIGKILL\)"):
        Engine.load(tiny_checkpoint, device="cpu", tensor_parallel_size=2)
    assert time.monotonic() - clock < 30
    assert children() == []


LEADER = """
import sys
from model import Engine, GenerateRequest, ImageSettings, TextSettings
engine = Engine.load(sys.argv[1], device="cpu", tensor_parallel_size=2)
for event in engine.run(GenerateRequest("a cat", ImageSettings(size="128x128", num_steps=1000))):
    print("on the way", flush=True)
"""


def test_ranks_end_when_rank_0_is_killed(tiny_checkpoint: Path) -> None:
    leader = subprocess.Popen([sys.executable, "-c", LEADER, str(tiny_checkpoint)], stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    for _ in range(4):
        leader.stdout.readline()
    (follower,) = psutil.Process(leader.pid).children()
    leader.kill()
    leader.wait()
    wait_until(lambda: not follower.is_running() or follower.status() == psutil.STATUS_ZOMBIE, 5)


def test_ctrl_c_at_the_terminal_ends_the_command_and_its_ranks(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "sensenova_cli", "generate", "a cat", "--num-steps", "1000", "--device", "cpu"]
    words += ["--dtype", "float32"]
    program = subprocess.Popen(
        [*words, "--tensor-parallel-size", "2", "-o", str(tmp_path / "cat.png")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stderr is not None
    for line in program.stderr:
        if "step" in line:
            break
    followers = psutil.Process(program.pid).children()
    assert len(followers) == 1
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait(20) == 130
    wait_until(lambda: not any(each.is_running() for each in followers), 5)
    assert list(tmp_path.iterdir()) == []


def test_torchrun_starts_the_ranks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sensenova_cli"]
    words = ["generate", "a cat", "--num-steps", "2", "--device", "cpu", "--tensor-parallel-size", "2", "-o", "cat.png"]
    words += ["--dtype", "float32"]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cat.png\n"
    assert done.stderr.count("picture: 2 steps") == 1
    assert (tmp_path / "cat.png").exists()


def test_torchrun_with_another_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        DeviceError,
        match=r"torchrun or accelerate launch has started 2 ranks; .* is 1\n.*`tensor_parallel_size=2`; or `gpus=2`",
    ):
        Engine.load(find_checkpoint(DEMO_MODEL), device="cpu")


def test_fewer_gpus_than_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="is 4, but PyTorch sees 2 GPUs\nask for 2 in all"):
        require_ranks(4, torch.device("cuda"))
    require_ranks(2, torch.device("cuda"))


def test_more_ranks_than_a_cpu_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.parallel.launch.cores", lambda: 2)
    with pytest.raises(DeviceError, match="is 24: too many processes for 2 cores\nask for at most 8"):
        require_ranks(24, torch.device("cpu"))
    require_ranks(8, torch.device("cpu"))


def test_one_gpu_by_number(tiny_checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match="`device` cuda:1 is one GPU, and 2 are asked for"):
        Engine.load(tiny_checkpoint, device="cuda:1", tensor_parallel_size=2)


def test_heads_that_cannot_be_shared(tiny_checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="it can be 1, 2;"):
        Engine.load(tiny_checkpoint, device="cpu", tensor_parallel_size=4)
    assert children() == []


def test_a_port_that_is_taken(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(DeviceError, match=f"cannot meet at port {port}, which is taken.*\nunset MASTER_PORT"):
            Engine.load(tiny_checkpoint, device="cpu", tensor_parallel_size=2)
    assert children() == []
