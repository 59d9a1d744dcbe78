"""Train the demo checkpoint: `python -m model.demo.training.train FOLDER`, on one GPU such as an H100.

It trains the network class of `model.network`. Only the KV cache is another one, because gradients have to flow through
it.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.backends.gpu import GpuAttention, GpuOperations
from model.checkpoint.layout import ParameterSlice
from model.checkpoint.loader import empty_network, load_checkpoint
from model.checkpoint.random_weights import config_fields
from model.checkpoint.writer import write_checkpoint
from model.demo.training.learner import Learner
from model.demo.training.lecture import EARLY_SHARE, Courses, Curriculum, Lecture
from model.demo.training.lessons import (
    ALL_COURSES,
    CHUNK,
    Table,
    chunk,
    encode_lessons,
)
from model.demo.training.rendering import Stage
from model.demo.training.vocabulary import build_tokenizer
from model.demo.training.world import SIDE
from model.device_kinds import DeviceKind
from model.inputs.prompts import system_message
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
    "trained_sizes": [[SIDE, SIDE]],
    "answer_input": {"min": SIDE * SIDE, "max": SIDE * SIDE},
    "edit_input": {"min": SIDE * SIDE, "max": SIDE * SIDE},
}

WORDS_LENGTH, MIXED_LENGTH = 48, 128
"""Tokens of a sequence of words only, and of a sequence that may contain a picture, a plan or a conversation."""
VOCABULARY_CHUNKS, VOCABULARY_LEAST = 2, 16
"""Chunks of each course in which words are counted for the tokenizer, and the least count of a word in it."""

LEARNING_RATE = 2e-3
"""The highest learning rate; see `learner` for its schedule."""
TEXT_WEIGHT = 0.1
"""Weight of the texts' loss, the mean cross-entropy of a learned token; the pictures' loss has weight 1."""

LOG_STEPS = 100


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


def make_tokenizer() -> Tokenizer:
    """Build the tokenizer from the words of all courses. It is the same on every machine."""

    def texts() -> Iterator[str]:
        for course in ALL_COURSES:
            for number in range(VOCABULARY_CHUNKS):
                for lesson in chunk(course, number):
                    for piece in lesson.pieces:
                        text = piece.text.replace(system_message(), "")
                        yield text if piece.learned else text.lower()

    return build_tokenizer(texts(), VOCABULARY_LEAST)


def _table_of(work: tuple[str, int, str, int]) -> Table:
    name, number, tokenizer, length = work
    course = next(each for each in ALL_COURSES if each.name == name)
    return encode_lessons(chunk(course, number), Tokenizer.from_str(tokenizer), length)


def make_tables(tokenizer: Tokenizer, taught: Courses, share: float) -> dict[str, Table]:
    """Make the courses' lessons, or a share of them, on all processors."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    serialized = tokenizer.to_str()
    tables: dict[str, Table] = {}
    with get_context("fork").Pool() as pool:
        for courses, length in ((taught.generating, WORDS_LENGTH), (taught.mixed, MIXED_LENGTH)):
            for course in courses:
                chunks = max(1, round(course.lessons * share / CHUNK))
                work = [(course.name, number, serialized, length) for number in range(chunks)]
                parts = pool.map(_table_of, work, chunksize=1)
                columns = {
                    name: np.concatenate([getattr(part, name) for part in parts])
                    for name in ("tokens", "learned", "lengths", "source", "target")
                }
                tables[course.name] = Table(**columns)
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
    parser.add_argument("--steps", type=int, default=50_000, help="total number of steps")
    parser.add_argument("--start-from", type=Path, help="checkpoint folder whose weights and tokenizer to start from")
    parser.add_argument("--save-seconds", type=float, default=60, help="seconds between two checkpoints")
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
    parser.add_argument("--eager", action="store_true", help="do not compile; for a trial")
    arguments = parser.parse_args()
    train(arguments)


def course_rows(text: str) -> tuple[str, int]:
    """Parse `edit=6` into the course's name and its rows per step."""
    name, _, rows = text.rpartition("=")
    if name not in [course.name for course in ALL_COURSES]:
        raise argparse.ArgumentTypeError(f"there is no course {name!r}")
    return name, int(rows)


def train(arguments: argparse.Namespace) -> None:
    """Train with these arguments, from the folder's saved state if there is one."""
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    began = time.time()
    start: Path | None = arguments.start_from
    tokenizer = Tokenizer.from_file(str(start / "tokenizer.json")) if start else make_tokenizer()
    courses = Courses()
    if arguments.course:
        courses = courses.with_rows(dict(arguments.course))
    tables = make_tables(tokenizer, courses, arguments.lessons)
    print(f"{sum(len(table.lengths) for table in tables.values())} lessons in {time.time() - began:.0f} s", flush=True)

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fields = config_fields(vocabulary=tokenizer.get_vocab_size(), **SHAPE)
    config = parse_config(fields, "demo")
    network = empty_network(config, device, torch.bfloat16)
    if start:
        network = load_checkpoint(start, device, torch.bfloat16)
    else:
        initialise(network, SHAPE["layers"])
    network.requires_grad_(True)
    if DeviceKind.of(device).is_gpu:
        # Lessons have masks, which PyTorch's grouping of heads does not support without storing all scores.
        network.und.operations = network.gen.operations = GpuOperations(GpuAttention(groups_heads=False))
    print(f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f} M parameters", flush=True)
    learner = Learner(network, arguments.steps, arguments.learning_rate)
    state_file = folder / "state.pt"
    if state_file.exists():
        learner.restore(torch.load(state_file, map_location=device, weights_only=True))
        torch.manual_seed(learner.step)
        print(f"continues from step {learner.step}", flush=True)
    words = Curriculum(courses.generating, tables, device)
    mixed = Curriculum(courses.mixed, tables, device)
    lecture: Any = Lecture(network, Stage(device), courses, tokenizer.encode("<IMG_CONTEXT>").ids[0], arguments.early)
    if not arguments.eager:
        lecture = torch.compile(lecture, dynamic=False)
    names = [name for name, _ in network.named_parameters()]

    def save() -> None:
        state, scratch = learner.state(), folder / "state.pt.part"
        torch.save(state, scratch)
        scratch.rename(state_file)
        means = dict(zip(names, learner.means, strict=True))
        save_checkpoint(folder / f"step-{learner.step:06}", fields, means, tokenizer)

    saved = began = time.time()
    first = learner.step
    sums = torch.zeros(2, device=device)
    while learner.step < arguments.steps:
        picture_loss, text_loss = lecture(words.draw(), mixed.draw())
        (picture_loss + TEXT_WEIGHT * text_loss).backward()
        learner.update()
        sums += torch.stack([picture_loss.detach(), text_loss.detach()])
        if learner.step % LOG_STEPS == 0:
            picture, text = (sums / LOG_STEPS).tolist()
            sums.zero_()
            seconds = time.time() - began
            line = {"step": learner.step, "picture_loss": picture, "text_loss": text, "seconds": seconds}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            if not math.isfinite(picture + text):
                raise SystemExit(f"the loss is not finite at step {learner.step}")
            if learner.step % (10 * LOG_STEPS) == 0 or learner.step - first == LOG_STEPS:
                rate = (learner.step - first) / seconds
                print(f"{learner.step} picture {picture:.4f} text {text:.4f} {rate:.1f} steps/s", flush=True)
            if time.time() - saved > arguments.save_seconds:
                save()
                saved = time.time()
    if learner.step > first:
        save()


if __name__ == "__main__":
    main()
