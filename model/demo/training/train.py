"""Train the demo checkpoint, on one GPU or several.

    python -m model.demo.training.train FOLDER --minutes 9
    python -m torch.distributed.run --nproc-per-node 2 -m model.demo.training.train FOLDER --minutes 9

Starts from the shipped weights, or continues a stopped training of FOLDER. README.md beside this file has the steps
from training to shipping.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from model.backends.gpu import GpuAttention, GpuOperations
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.demo.training.courses import ALL_ROWS
from model.demo.training.learner import Learner
from model.demo.training.lecture import EARLY_SHARE, Lecture
from model.demo.training.network_start import new_network, starting_network
from model.demo.training.rendering import Stage
from model.demo.training.saving import Progress, Saver, read_progress
from model.demo.training.vocabulary import context_id, lesson_tokenizer
from model.demo.training.workers import Workers
from model.device_kinds import DeviceKind
from model.network.sensenova import SenseNovaU1
from model.parallel.launch import cores

LEARNING_RATE = 1.5e-3
"""The highest learning rate; see `learner` for its schedule."""
TEXT_WEIGHT = 0.1
"""Weight of the texts' loss, the mean cross-entropy of a learned token; the pictures' loss has weight 1."""
TOTAL_MINUTES = 17.0
"""Minutes of training over all calls, after which the learning rate is at its end."""
CLOCK_STEPS = 10
"""Steps between two looks at the clock, which all processes share: they must stop together, with equal weights."""
SECONDS_TO_SAVE = 15.0
"""Time that is left for the last save."""
REPORT_SECONDS = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for checkpoints, state and log; a stopped training continues")
    parser.add_argument("--minutes", type=float, help="end this call in time, the start included, and save")
    parser.add_argument("--total-minutes", type=float, default=TOTAL_MINUTES, help="minutes of training over all calls")
    parser.add_argument("--steps", type=int, help="end after this number of steps over all calls; for a trial")
    parser.add_argument("--start-from", type=Path, default=DEMO_CHECKPOINT, help="checkpoint folder to start from")
    parser.add_argument("--new", action="store_true", help="start from random weights")
    parser.add_argument("--save-minutes", type=float, default=2, help="minutes between two saves")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="highest learning rate")
    parser.add_argument("--early", type=float, default=EARLY_SHARE, help="share of times that are near 0")
    parser.add_argument("--rows", type=int, default=ALL_ROWS, help="lessons of a step at 256x256, per GPU")
    parser.add_argument("--workers", type=int, help="processes that make lessons, per GPU; default: all cores but one")
    train(parser.parse_args())


@dataclass(frozen=True)
class Place:
    """The place of this process among those of the training."""

    rank: int
    processes: int
    device: torch.device

    @classmethod
    def of_process(cls) -> "Place":
        """Read the place from the variables of `torch.distributed.run`; without them, this is the only process."""
        rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.device_count() else "cpu"
        return cls(rank, processes, torch.device(name))


class Clock:
    """The training's time in seconds, which all processes share."""

    def __init__(self, place: Place, began: float, before: float) -> None:
        """
        Args:
            began: `time.monotonic()` at the start of this call.
            before: seconds of training in earlier calls.
        """
        self._place, self._call, self._before = place, began, before
        self._training = time.monotonic()
        self.read()

    def read(self) -> None:
        """Look at the first process's clock, after the device has done its work."""
        if self._place.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        seconds = torch.tensor([now - self._call, now - self._training], dtype=torch.float64, device=self._place.device)
        if dist.is_initialized():
            dist.broadcast(seconds, 0)
        self.of_call, of_training = seconds.tolist()
        self.of_training = self._before + of_training


def train(arguments: argparse.Namespace) -> None:
    """Train with these arguments, from the folder's saved state if there is one."""
    began = time.monotonic()
    folder, place = arguments.folder, Place.of_process()
    folder.mkdir(parents=True, exist_ok=True)
    start = None if arguments.new else arguments.start_from
    progress = read_progress(folder, start)
    tokenizer = lesson_tokenizer(folder, start)
    workers = Workers(
        tokenizer,
        first_step=progress.step,
        rows=arguments.rows,
        processes=arguments.workers or max(1, cores() // place.processes - 1),
        rank=place.rank,
    )
    try:
        if place.processes > 1:
            if place.device.type == "cuda":
                torch.cuda.set_device(place.device)
            dist.init_process_group()
        _run(arguments, place, tokenizer, workers, progress, began)
    finally:
        workers.close()
        if dist.is_initialized():
            dist.destroy_process_group()


def _run(
    arguments: argparse.Namespace,
    place: Place,
    tokenizer: Tokenizer,
    workers: Workers,
    progress: Progress,
    began: float,
) -> None:
    network = _network(arguments, tokenizer, place.device)
    learner = Learner(network, arguments.learning_rate)
    saver = Saver(arguments.folder, network, learner, tokenizer)
    saver.restore(progress, place.device)
    torch.manual_seed(progress.step * place.processes + place.rank)
    lecture = Lecture(network, Stage(place.device), context_id(tokenizer), arguments.early)
    clock = Clock(place, began, progress.seconds)
    reporter = Reporter(arguments.folder, lecture, workers, learner, clock)
    if place.rank == 0:
        print(f"begins at step {learner.step}, {clock.of_call:.0f} s after the start", flush=True)
    last_save = clock.of_call
    total = 60 * arguments.total_minutes
    end = min(_end_of_call(arguments.minutes), clock.of_call + total - clock.of_training)
    batches = workers.batches()
    while clock.of_call < end and (arguments.steps is None or learner.step < arguments.steps):
        picture_loss, text_loss = lecture.losses(next(batches))
        (picture_loss + TEXT_WEIGHT * text_loss).backward()
        learner.update(clock.of_training / total)
        if learner.step % CLOCK_STEPS:
            continue
        clock.read()
        if place.rank == 0:
            reporter.report(least_seconds=REPORT_SECONDS)
            if clock.of_call - last_save > 60 * arguments.save_minutes:
                saver.save(clock.of_training)
                last_save = clock.of_call
    clock.read()
    if place.rank == 0 and learner.step > progress.step:
        reporter.report()
        print(f"saved {saver.save(clock.of_training)}", flush=True)


def _end_of_call(minutes: float | None) -> float:
    """Return the seconds after the start of a call at which its training ends."""
    return math.inf if minutes is None else 60 * minutes - SECONDS_TO_SAVE


def _network(arguments: argparse.Namespace, tokenizer: Tokenizer, device: torch.device) -> SenseNovaU1:
    """Return the network to train: in bfloat16 on a GPU, and in float32 on a CPU, where bfloat16 may be slow."""
    is_gpu = DeviceKind.of(device).is_gpu
    dtype = torch.bfloat16 if is_gpu else torch.float32
    if arguments.new:
        torch.manual_seed(0)
        network = new_network(tokenizer, device, dtype)
    else:
        network = starting_network(arguments.start_from, tokenizer, device, dtype)
    network.requires_grad_(True)
    if is_gpu:
        # Lessons have masks, which PyTorch's grouping of heads does not support without storing all scores.
        network.und.operations = network.gen.operations = GpuOperations(GpuAttention(groups_heads=False))
    return network


class Reporter:
    """Prints a line of progress with the losses of each course, and adds it to the log.

    Raises:
        SystemExit: a loss is not finite.
    """

    def __init__(self, folder: Path, lecture: Lecture, workers: Workers, learner: Learner, clock: Clock) -> None:
        self._log = folder / "log.jsonl"
        self._lecture, self._workers, self._learner, self._clock = lecture, workers, learner, clock
        self._step, self._seconds, self._waited = learner.step, clock.of_call, 0.0

    def report(self, *, least_seconds: float = 0) -> None:
        """Report the steps since the last report, if that was at least some seconds ago and there are any."""
        seconds, steps = self._clock.of_call - self._seconds, self._learner.step - self._step
        if seconds < least_seconds or not steps:
            return
        waited = self._workers.waited - self._waited
        means = self._lecture.means()
        line = {
            "step": self._learner.step,
            "minutes": round(self._clock.of_training / 60, 2),
            "steps_per_second": round(steps / max(seconds, 1e-9), 2),
            "waited": round(waited / max(seconds, 1e-9), 3),
            "losses": means,
        }
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        print(" | ".join(_words(line, means)), flush=True)
        if not all(math.isfinite(loss) for losses in means.values() for loss in losses.values()):
            raise SystemExit(f"a loss is not finite at step {self._learner.step}")
        self._step, self._seconds, self._waited = self._learner.step, self._clock.of_call, self._workers.waited


def _words(line: dict[str, Any], means: dict[str, dict[str, float]]) -> Iterator[str]:
    yield f"{line['minutes']} min, step {line['step']}, {line['steps_per_second']} steps/s"
    yield f"waited for lessons {100 * line['waited']:.0f} %"
    for name, losses in means.items():
        yield f"{name} " + " ".join(f"{part} {loss:.4f}" for part, loss in losses.items())


if __name__ == "__main__":
    main()
