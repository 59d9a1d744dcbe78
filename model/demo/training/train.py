"""Train the demo checkpoint: `python -m model.demo.training.train FOLDER`, on one GPU such as an H100 or on several.

It trains the network class of `model.network`. Only the KV cache is another one, because gradients have to flow through
it. Each process has pictures of other sizes.
"""

import argparse
import json
import math
import os
import socket
import time
import traceback
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, distributed

from model.backends.gpu import GpuAttention, GpuOperations
from model.checkpoint.layout import ParameterSlice
from model.checkpoint.loader import empty_network, load_checkpoint
from model.checkpoint.random_weights import config_fields
from model.checkpoint.writer import write_checkpoint
from model.demo.training.curriculum import STORY_TEXT, Courses, Curriculum, Sizes, sizes_of_rank
from model.demo.training.growth import copy_grown
from model.demo.training.layouts import GRIDS, pixels
from model.demo.training.learner import Learner
from model.demo.training.lecture import EARLY_SHARE, Lecture
from model.demo.training.lessons import ALL_COURSES, CHUNK, PICTURES, Table, chunk, encode_lessons
from model.demo.training.rendering import Stage
from model.demo.training.stories import story_message
from model.demo.training.vocabulary import build_tokenizer, extended_tokenizer
from model.inputs.prompts import IMAGE_SLOT, system_message
from model.network.configuration import parse_config
from model.network.sensenova import SenseNovaU1

SHAPE: dict[str, Any] = {
    "hidden": 256,
    "layers": 6,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 64,
    "ffn": 768,
    "vision_hidden": 128,
}
"""Arguments of `config_fields`. They give about 11.7 million parameters."""
SHARD_BYTES = 12_000_000
RECOMMENDED: dict[str, Any] = {
    "settings": {
        "num_steps": 24,
        "cfg_scale": 2.5,
        "timestep_shift": 3.0,
        "max_tokens": 64,
        "max_think_tokens": 64,
    },
    "trained_sizes": [list(pixels(grid)) for grid in GRIDS],
    "answer_input": {"min": 192 * 192, "max": 320 * 320},
    "edit_input": {"min": 192 * 192, "max": 320 * 320},
}

LESSON_LENGTH = 112
"""Most tokens of a lesson, with one token for its picture."""
SQUARE_TOKENS = 64
"""Tokens of a picture of the size for which courses give their rows. Larger pictures have fewer rows in a step."""
VOCABULARY_CHUNKS, VOCABULARY_LEAST = 2, 16
"""Chunks of each course in which words are counted for the tokenizer, and the least count of a word in it."""

LEARNING_RATE = 2e-3
"""The highest learning rate; see `learner` for its schedule."""
TEXT_WEIGHT = 0.1
"""Weight of the texts' loss, the mean cross-entropy of a learned token; the pictures' loss has weight 1."""

LOG_STEPS, CLOCK_STEPS = 100, 20
"""Steps between two lines of the log, and between two looks at the clock."""
SAVING_SECONDS = 8
"""Time that is kept for the last checkpoint."""


def initialise(network: SenseNovaU1, layers: int) -> None:
    """Fill a new network: norms with 1, biases with 0, matrices with normal numbers of deviation 1/√fan-in.

    Matrices that write to the residual stream get 1/√(2·layers) of that deviation.
    """
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 or name.endswith("_norm.weight"):
            parameter.data.fill_(0 if name.endswith(".bias") else 1)
            continue
        deviation = math.prod(parameter.shape[1:]) ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= (2 * layers) ** 0.5
        if name == "embed_tokens.weight":
            deviation = 0.5
        parameter.data.normal_(std=deviation)


def _words_of(work: tuple[str, int]) -> list[str]:
    """Return the texts of a chunk of lessons, without the system messages, as the tokenizer will see them."""
    name, number = work
    course = next(each for each in ALL_COURSES if each.name == name)
    texts = []
    for lesson in chunk(course, number):
        for piece in lesson.pieces:
            text = piece.text.replace(IMAGE_SLOT, "<img>").replace(system_message(), "").replace(story_message(), "")
            texts.append(text if piece.learned else text.lower())
    return texts


def make_tokenizer(start: Tokenizer | None) -> Tokenizer:
    """Build the tokenizer from the words of all courses, or add them to another. It is the same on every machine."""
    work = [(course.name, number) for course in ALL_COURSES for number in range(VOCABULARY_CHUNKS)]
    with get_context("fork").Pool() as pool:
        texts = [text for part in pool.map(_words_of, work, chunksize=1) for text in part]
    if start is None:
        return build_tokenizer(texts, VOCABULARY_LEAST)
    return extended_tokenizer(start, texts, VOCABULARY_LEAST)


def _table_of(work: tuple[str, int, str, int, int, int]) -> Table:
    name, number, tokenizer, length, expanded, picture_tokens = work
    course = next(each for each in ALL_COURSES if each.name == name)
    return encode_lessons(chunk(course, number), Tokenizer.from_str(tokenizer), length, expanded, picture_tokens)


def make_tables(tokenizer: Tokenizer, taught: Courses, sizes: Sizes, share: float, rank: int, ranks: int) -> dict[str, Table]:
    """Make the courses' lessons, or a share of them, on this process's part of the processors.

    Every rank makes other lessons.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    serialized = tokenizer.to_str()
    tables: dict[str, Table] = {}
    with get_context("fork").Pool(max(1, (os.cpu_count() or 1) // ranks)) as pool:
        for courses, text, expanded in (
            (taught.lessons, LESSON_LENGTH, sizes.lesson_length),
            (taught.stories, STORY_TEXT, sizes.story_length),
        ):
            for course in courses:
                chunks = max(1, round(course.lessons * share / CHUNK))
                numbers = range(rank, rank + ranks * chunks, ranks)
                work = [(course.name, number, serialized, text, expanded, sizes.length) for number in numbers]
                tables[course.name] = Table.joined(pool.map(_table_of, work, chunksize=1))
    return tables


def save_checkpoint(folder: Path, fields: dict[str, Any], means: dict[str, Tensor], tokenizer: Tokenizer) -> None:
    """Write the running mean of the weights in the official layout."""

    def numbers(name: str, place: ParameterSlice) -> Tensor:
        flat = means[place.parameter].flatten()[place.offset : place.offset + place.numel]
        return flat.view(place.shape).to("cpu", torch.bfloat16)

    write_checkpoint(
        folder,
        fields,
        numbers,
        dtype=torch.bfloat16,
        shard_bytes=SHARD_BYTES,
        tokenizer=tokenizer,
        recommended=RECOMMENDED,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for checkpoints, state and log; a stopped training continues")
    parser.add_argument("--minutes", type=float, default=30, help="time for everything, lessons and compilation included")
    parser.add_argument("--processes", type=int, default=1, help="number of processes, each with a GPU and sizes of its own")
    parser.add_argument("--start-from", type=Path, help="checkpoint folder whose weights and tokenizer to start from")
    parser.add_argument("--save-seconds", type=float, default=120, help="seconds between two checkpoints")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="highest learning rate")
    parser.add_argument("--early", type=float, default=EARLY_SHARE, help="share of times that are near 0")
    parser.add_argument(
        "--course",
        action="append",
        metavar="NAME=ROWS",
        type=course_rows,
        help="train only the named courses, with ROWS rows per step",
    )
    parser.add_argument(
        "--lessons", type=float, default=1.0, help="share of the lessons to make; less than 1 for a trial"
    )
    parser.add_argument("--rows", type=float, default=1.0, help="share of the rows of a step; less than 1 for a trial")
    parser.add_argument("--eager", action="store_true", help="do not compile; for a trial")
    arguments = parser.parse_args()
    began = time.time()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    start: Path | None = arguments.start_from
    tokenizer = make_tokenizer(Tokenizer.from_file(str(start / "tokenizer.json")) if start else None).to_str()
    print(f"tokenizer in {time.time() - began:.0f} s", flush=True)
    run_processes(arguments, tokenizer, began)


def course_rows(text: str) -> tuple[str, int]:
    """Parse `edit=6` into the course's name and its rows per step."""
    name, _, rows = text.rpartition("=")
    if name not in [course.name for course in ALL_COURSES]:
        raise argparse.ArgumentTypeError(f"there is no course {name!r}")
    return name, int(rows)


def run_processes(arguments: argparse.Namespace, tokenizer: str, began: float) -> None:
    """Train in one process, or in several that stop together.

    Raises:
        SystemExit: a process failed.
    """
    ranks: int = arguments.processes
    if ranks == 1:
        train(arguments, tokenizer, began, 0, None)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    context = get_context("spawn")
    processes = [
        context.Process(target=train, args=(arguments, tokenizer, began, rank, address)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        failed = [process.exitcode for process in processes if process.exitcode]
        if failed:
            for process in processes:
                process.terminate()
            raise SystemExit(f"a process of the training ended with {failed[0]}")
        time.sleep(0.5)
    if any(process.exitcode for process in processes):
        raise SystemExit("a process of the training failed")


def train(arguments: argparse.Namespace, serialized: str, began: float, rank: int, address: str | None) -> None:
    """Train with these arguments in one process, from the folder's saved state if there is one.

    Args:
        serialized: the tokenizer.
        began: time at which the whole training began.
        address: where the processes meet; None for one process.
    """
    ranks, folder, start = arguments.processes, arguments.folder, arguments.start_from
    deadline = began + 60 * arguments.minutes - SAVING_SECONDS
    tokenizer, sizes = Tokenizer.from_str(serialized), sizes_of_rank(rank, ranks)
    courses = Courses()
    if arguments.course:
        courses = courses.with_rows(dict(arguments.course))
    courses = courses.scaled(arguments.rows * SQUARE_TOKENS / sizes.length)
    tables = make_tables(tokenizer, courses, sizes, arguments.lessons, rank, ranks)
    count = sum(len(table.lengths) for table in tables.values())
    print(f"process {rank}: sizes {sizes.grids}, {count} lessons after {time.time() - began:.0f} s", flush=True)

    has_gpu = torch.cuda.is_available()
    device, dtype = torch.device("cpu"), torch.float32
    if has_gpu:
        device, dtype = torch.device("cuda", rank), torch.bfloat16
        torch.cuda.set_device(device)
    if address is not None:
        patience = timedelta(minutes=30)  # the first step waits for the slowest compilation
        distributed.init_process_group("nccl" if has_gpu else "gloo", address, patience, ranks, rank)
    torch.manual_seed(0)
    fields = config_fields(vocabulary=tokenizer.get_vocab_size(), **SHAPE)
    network = empty_network(parse_config(fields, "demo"), device, dtype)
    if start:
        known = load_checkpoint(start, device, dtype)
        copy_grown(known, network, Tokenizer.from_file(str(start / "tokenizer.json")), tokenizer)
        del known
    else:
        initialise(network, SHAPE["layers"])
    network.requires_grad_(True)
    if has_gpu:
        # Lessons have masks, which PyTorch's grouping of heads does not support without storing all scores.
        network.und.operations = network.gen.operations = GpuOperations(GpuAttention(groups_heads=False))
    learner = Learner(network, arguments.learning_rate)
    state_file = folder / "state.pt"
    if state_file.exists():
        learner.restore(torch.load(state_file, map_location=device, weights_only=True))
        print(f"process {rank} continues from step {learner.step}", flush=True)
    learner.align()
    torch.manual_seed(learner.step * ranks + rank)

    (context,) = tokenizer.encode("<IMG_CONTEXT>", add_special_tokens=False).ids
    every = range(len(sizes.grids))
    lessons = Curriculum(courses.lessons, tables, sizes, every, sizes.lesson_length, context, device, 1)
    stories = None
    if courses.stories:
        stories = Curriculum(
            courses.stories, tables, sizes, sizes.story_grids, sizes.story_length, context, device, PICTURES
        )
    story_grids = stories.grids.tolist() if stories else []
    eager = Lecture(network, Stage(device, sizes.grids), courses, sizes, arguments.early, story_grids)
    names = [name for name, _ in network.named_parameters()]

    def learn(lecture: Any) -> tuple[Tensor, Tensor]:
        picture_loss, text_loss = lecture(lessons.draw(), stories.draw() if stories else None)
        (picture_loss + TEXT_WEIGHT * text_loss).backward()
        return picture_loss, text_loss

    lecture: Any = eager
    if not arguments.eager:
        lecture = torch.compile(eager, dynamic=False)
        try:
            learn(lecture)
        except Exception:  # a rented machine is not wasted: without compilation a step takes some times as long
            traceback.print_exc()
            lecture = eager
        network.zero_grad()

    def take_step(lecture: Any) -> Tensor:
        picture_loss, text_loss = learn(lecture)
        learner.update()
        return torch.stack([picture_loss.detach(), text_loss.detach()])

    def save() -> None:
        learner.align()
        if rank:
            return
        state, scratch = learner.state(), folder / "state.pt.part"
        torch.save(state, scratch)
        scratch.rename(state_file)
        means = dict(zip(names, learner.means, strict=True))
        target = folder / f"step-{learner.step:06}"
        if not target.exists():
            save_checkpoint(target, fields, means, tokenizer)
        print(f"saved step {learner.step} after {time.time() - began:.0f} s", flush=True)

    first, done = learner.step, learner.progress
    sums = take_step(lecture)
    saved = ready = time.time()
    print(f"process {rank}: first step after {ready - began:.0f} s", flush=True)
    clock = torch.zeros(2, device=device, dtype=torch.float64)
    while learner.progress < 1:
        sums += take_step(lecture)
        if learner.step % CLOCK_STEPS:
            continue
        now = time.time()
        clock[0], clock[1] = done + (1 - done) * (now - ready) / max(1.0, deadline - ready), now - saved
        if address is not None:
            distributed.broadcast(clock, 0)  # all processes have to take the same decisions
        learner.progress, unsaved = clock.tolist()
        if learner.step % LOG_STEPS == 0:
            picture, text = (sums / LOG_STEPS).tolist()
            sums.zero_()
            report(folder / f"log-{rank}.jsonl", learner, picture, text, (learner.step - first) / (now - ready), now - began)
        if unsaved > arguments.save_seconds:
            save()
            saved = time.time()
    save()
    if address is not None:
        distributed.destroy_process_group()


def report(file: Path, learner: Learner, picture: float, text: float, rate: float, seconds: float) -> None:
    """Write a line to the log, and print a few of them."""
    line = {"step": learner.step, "picture_loss": picture, "text_loss": text, "seconds": seconds}
    with file.open("a") as log:
        log.write(json.dumps(line) + "\n")
    if not math.isfinite(picture + text):
        raise SystemExit(f"the loss is not finite at step {learner.step}")
    if learner.step % (5 * LOG_STEPS) == 0:
        words = f"{learner.step} picture {picture:.4f} text {text:.4f} {rate:.1f} steps/s {learner.progress:.0%}"
        print(f"{file.stem}: {words}", flush=True)


if __name__ == "__main__":
    main()
