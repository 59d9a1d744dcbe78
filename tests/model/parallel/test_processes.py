"""Rank processes: how they start, stay in step and end, also if one of them fails; on a CPU."""

import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

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
from model.parallel import processes
from model.parallel.commands import Rendezvous
from model.parallel.connections import RankConnections
from model.parallel.launch import require_ranks
from tests.model.checkpoint.test_lora import matrices, write_lora
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.slow
CAT = GenerateRequest("a cat on a blue background", ImageSettings(size="128x128", num_steps=4))


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_rank(child)]


def is_rank(process: psutil.Process) -> bool:
    """Return whether a process is a rank, also if it has ended and is not reaped yet."""
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def resident() -> Iterator[list[Engine]]:
    """A list of at most one engine of two ranks, which tests share; closed at the end."""
    engines: list[Engine] = []
    yield engines
    close_all(engines)


def close_all(engines: list[Engine]) -> None:
    while engines:
        engines.pop().close()
    assert children() == []


@pytest.fixture
def shared(resident: list[Engine], tiny_checkpoint: Path) -> Engine:
    """The engine that tests share; loaded again if an earlier test ended its ranks."""
    if not resident or not children():
        close_all(resident)
        resident.append(Engine.load(tiny_checkpoint, device="cpu", tensor_parallel_size=2))
    return resident[0]


@pytest.fixture(autouse=True)
def no_other_ranks(request: pytest.FixtureRequest, resident: list[Engine]) -> None:
    """Close the shared engine before a test with its own ranks, in any order of the tests."""
    if "shared" not in request.fixturenames:
        close_all(resident)


def test_the_same_picture_as_one_process(shared: Engine, tiny_checkpoint: Path) -> None:
    alone = picture(Engine.load(tiny_checkpoint, device="cpu"))
    parallel = picture(shared)
    assert (parallel - alone).norm() / alone.norm() < 2e-2
    assert torch.equal(picture(shared), parallel)
    assert shared.device == "cpu, 2 ranks"


def test_a_cancelled_request_ends_on_all_ranks(shared: Engine) -> None:
    whole = picture(shared)
    many = GenerateRequest(CAT.prompt, CAT.settings.model_copy(update={"num_steps": 1000}))
    for count in (0, 1, 2, 5):
        events = shared.run(many)
        for _ in range(count):
            next(events)
        events.close()  # type: ignore[attr-defined]
        assert torch.equal(picture(shared), whole)
    assert not shared.is_lost


def test_think_text_is_the_same_every_time(shared: Engine) -> None:
    settings = CAT.settings.model_copy(update={"think": True, "max_think_tokens": 6})
    texts = []
    for _ in range(2):
        events = list(shared.run(GenerateRequest(CAT.prompt, settings)))
        texts += [event.token_ids for event in events if isinstance(event, ThinkText)]
        assert any(isinstance(event, Picture) for event in events)
    assert texts[0] == texts[1] != ()


@pytest.fixture
def patient_rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 waits longer for the other rank's error than users should wait, because the machine may be busy."""
    monkeypatch.setattr(processes, "ERROR_SECONDS", PATIENCE)


@pytest.mark.usefixtures("patient_rank_zero")
def test_an_error_of_the_request_leaves_the_ranks_in_step(shared: Engine) -> None:
    with pytest.raises(RequestError, match="placeholders"):
        list(shared.run(AnswerRequest("<image> what is this?")))
    assert not shared.is_lost
    assert any(isinstance(event, Answer) for event in shared.run(ask("hello")))


def test_all_ranks_cache_prefixes(shared: Engine) -> None:
    list(shared.run(ask("one two three")))
    second = [event for event in shared.run(ask("one two four")) if isinstance(event, PrefixRead)]
    assert second[0].reused > 5
    shared.clear_cache()
    third = [event for event in shared.run(ask("one two five")) if isinstance(event, PrefixRead)]
    assert third[0].reused == 0


@pytest.mark.usefixtures("patient_rank_zero")
def test_loras_change_on_all_ranks(shared: Engine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = picture(shared)
    file = write_lora(tmp_path / "lora.safetensors", matrices(tiny_checkpoint))
    lora = NamedLora(str(file), 1.0)
    shared.use_loras([lora])
    alone = picture(Engine.load(tiny_checkpoint, device="cpu", lora=str(file)))
    parallel = picture(shared)
    assert (parallel - alone).norm() / alone.norm() < 5e-2 < (parallel - before).norm() / before.norm()
    with pytest.raises(CheckpointError, match="there is no LoRA file"):
        shared.use_loras([NamedLora("none.safetensors", 1.0)])
    shared.use_loras([])
    assert torch.equal(picture(shared), before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process's memory as Linux can")
def test_out_of_memory_on_one_rank_only(shared: Engine) -> None:
    import resource

    (child,) = children()
    # Enough for the prompt, but not for the noise of a large picture.
    most = child.memory_info().vms + 16 * 2**20
    resource.prlimit(child.pid, resource.RLIMIT_AS, (most, most))
    with pytest.raises(DeviceMemoryError, match="rank 1: out of memory: this request does not fit"):
        picture(shared, GenerateRequest("a cat", ImageSettings(size="2048x2048", num_steps=50)))
    assert shared.is_lost  # rank 0 may be waiting in a collective
    with pytest.raises(RankError, match="were ended: rank 1: out of memory"):
        next(iter(shared.run(CAT)))
    until(lambda: children() == [])


@pytest.mark.skipif(sys.platform != "linux", reason="opens a folder that only rank 0 sees by Linux's /proc")
def test_a_checkpoint_that_one_rank_cannot_see(shared: Engine, tiny_checkpoint: Path) -> None:
    shared.close()
    descriptor = os.open(tiny_checkpoint, os.O_RDONLY)
    try:
        with pytest.raises(CheckpointError, match=r"rank 1: /proc/self/fd/\d+ has no config.json"):
            Engine.load(f"/proc/self/fd/{descriptor}", device="cpu", tensor_parallel_size=2)
    finally:
        os.close(descriptor)
    assert children() == []


@pytest.mark.parametrize("arbitrary", [False, True], ids=["collective fails", "collective goes on"])
def test_a_killed_rank_is_named_and_its_error_can_be_kept(
    arbitrary: bool, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames in the error's traceback hold no tensors: on GPUs they would keep the next model from loading.

    On GPUs a collective with a lost rank ends with arbitrary numbers, and the turn goes on until the loss is noticed.
    """
    engine = Engine.load(tiny_checkpoint, device="cpu", cfg_parallel_size=2)
    (child,) = children()
    backend = weakref.ref(engine._runner.model.backend)
    many = GenerateRequest(CAT.prompt, CAT.settings.model_copy(update={"num_steps": 1000}))
    with pytest.raises(RankError, match=r"rank 1 of 2 was killed \(SIGKILL\)\nload the model again") as caught:
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
    assert engine.is_lost
    with pytest.raises(RankError, match="the processes that share the model were ended: rank 1 of 2 was killed"):
        next(iter(engine.run(CAT)))
    engine.close()
    assert children() == []
    assert backend() is None
    assert ranks is not None and ranks.lost is not None and ranks.lost.__traceback__ is None
    assert caught.value.__traceback__ is not None


def test_a_rank_lost_before_it_joins_the_groups(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = RankConnections.send

    def kill_and_send(connections: RankConnections, message: object) -> None:
        if isinstance(message, Rendezvous):
            for child in children():
                child.kill()
        send(connections, message)

    monkeypatch.setattr(RankConnections, "send", kill_and_send)
    with pytest.raises(RankError, match=r"rank 1 of 2 was killed \(SIGKILL\)"):
        Engine.load(tiny_checkpoint, device="cpu", tensor_parallel_size=2)
    assert children() == []


RANK_ZERO = """
import sys
from model import Engine, GenerateRequest, ImageSettings, TextSettings
engine = Engine.load(sys.argv[1], device="cpu", tensor_parallel_size=2)
for event in engine.run(GenerateRequest("a cat", ImageSettings(size="128x128", num_steps=1000))):
    print("event", flush=True)
"""


def test_ranks_end_when_rank_0_is_killed(tiny_checkpoint: Path) -> None:
    rank_zero = subprocess.Popen(
        [sys.executable, "-c", RANK_ZERO, str(tiny_checkpoint)], stdout=subprocess.PIPE, text=True
    )
    assert rank_zero.stdout is not None
    for _ in range(4):
        rank_zero.stdout.readline()
    (rank,) = psutil.Process(rank_zero.pid).children()
    rank_zero.kill()
    rank_zero.wait()
    until(lambda: not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE)


def test_ctrl_c_at_the_terminal_ends_the_command_and_its_ranks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sensenova_cli", "generate", "a cat", "--num-steps", "1000", "--device", "cpu"]
    command += ["--dtype", "float32"]
    program = subprocess.Popen(
        [*command, "--tensor-parallel-size", "2", "-o", str(tmp_path / "cat.png")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stderr is not None
    for line in program.stderr:
        if "loaded in" in line:
            break
    ranks = psutil.Process(program.pid).children()
    assert len(ranks) == 1
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait(PATIENCE) == 130
    until(lambda: not any(each.is_running() for each in ranks))
    assert list(tmp_path.iterdir()) == []


TORCHRUN = ["torch.distributed.run", "--nproc-per-node", "2"]
# Its --cpu starts a single process, or needs mpirun; --multi_gpu starts several, also without GPUs.
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
CPU_PICTURE = ["-m", "sensenova_cli", "generate", "a cat", "--num-steps", "2", "--seed", "3", "--device", "cpu"]
CPU_PICTURE += ["--dtype", "float32"]


@pytest.fixture(scope="module")
def one_process_picture(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, *CPU_PICTURE, "-o", "cat.png"], cwd=folder, capture_output=True, check=True)
    return np.asarray(Image.open(folder / "cat.png"), float)


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_launcher_starts_the_ranks(launcher: list[str], one_process_picture: np.ndarray, tmp_path: Path) -> None:
    command = [sys.executable, "-m", *launcher, *CPU_PICTURE, "--tensor-parallel-size", "2", "-o", "cat.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cat.png\n"
    assert done.stderr.count("· 2 steps") == 1
    assert done.stderr.count("float32 on cpu, 2 ranks") == 1
    pixels = np.asarray(Image.open(tmp_path / "cat.png"), float)
    assert np.abs(pixels - one_process_picture).max() <= 1  # of 255: sums are rounded in another order


def test_accelerate_starts_the_ranks_of_two_machines(one_process_picture: np.ndarray, tmp_path: Path) -> None:
    """Two launchers on this host, as they would run on two."""
    port = free_port()
    machines = [*ACCELERATE[:-2], "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    machines[machines.index("--num_machines") + 1] = "2"
    launchers = []
    for rank in range(2):
        command = [sys.executable, "-m", *machines, "--machine_rank", str(rank), *CPU_PICTURE]
        command += ["--tensor-parallel-size", "2", "-o", f"{rank}.png"]
        pipe = subprocess.PIPE
        launchers.append(subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True))
    try:
        outputs = [launcher.communicate(timeout=PATIENCE) for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.kill()
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    assert [stdout for stdout, _ in outputs] == ["0.png\n", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]
    pixels = np.asarray(Image.open(tmp_path / "0.png"), float)
    assert np.abs(pixels - one_process_picture).max() <= 1


def test_a_launcher_with_another_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(SettingsError, match="`device` cuda:1 is one GPU, but 2 are needed"):
        Engine.load(tiny_checkpoint, device="cuda:1", tensor_parallel_size=2)


def test_heads_that_four_ranks_cannot_share(tiny_checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="it can be 1, 2;"):
        Engine.load(tiny_checkpoint, device="cpu", tensor_parallel_size=4)
    assert children() == []


def test_a_port_that_is_taken(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(DeviceError, match=f"cannot meet at port {port}, which is in use.*\nunset MASTER_PORT"):
            Engine.load(tiny_checkpoint, device="cpu", tensor_parallel_size=2)
    assert children() == []
