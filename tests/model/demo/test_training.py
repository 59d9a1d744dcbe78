"""Training and the program agree: the same tokens, positions and predictions."""

from collections.abc import Sequence
from dataclasses import fields
from random import Random

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

import os
from pathlib import Path
DEMO_CHECKPOINT = Path(os.environ.get("DEMO25", "/tmp/demo25/grown"))
from model.checkpoint.loader import load_checkpoint
from model.demo.training.curriculum import Courses, Rows, Sizes, expanded, sizes_of_rank
from model.demo.training.layouts import GRIDS, Grid
from model.demo.training.lecture import Lecture
from model.demo.training.lessons import ALL_COURSES, Course, Lesson, Table, Teacher, encode_lessons
from model.demo.training.rendering import Stage
from model.demo.training.train import LESSON_LENGTH
from model.inputs.prompts import IMAGE_SLOT
from model.inputs.token_sequence import TokenSequence, build_sequence
from model.inputs.tokenizer import Tokenizer
from model.network.attention import Segment
from model.network.flow import tokens_to_picture
from model.network.rope import attention_rotary, image_positions, patch_rotary
from model.network.sensenova import SenseNovaU1
from model.sampling.prefill import embed_image, prefill

SIZES = Sizes(GRIDS)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> SenseNovaU1:
    return load_checkpoint(DEMO_CHECKPOINT, CPU, torch.float32)


@pytest.fixture(scope="module")
def raw_tokenizer() -> RawTokenizer:
    return RawTokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))


def rows_of(lessons: Sequence[Lesson], raw: RawTokenizer, grid: Grid) -> tuple[Table, Rows]:
    """Return lessons as a table, and as a batch with pictures of one size."""
    table = encode_lessons(lessons, raw, LESSON_LENGTH, 1000, SIZES.length)
    columns = {field.name: torch.from_numpy(getattr(table, field.name)) for field in fields(Table)}
    count, (context,) = len(lessons), raw.encode("<IMG_CONTEXT>").ids
    tokens, index = torch.full((count,), grid[0] * grid[1]), torch.full((count,), GRIDS.index(grid))
    return table, expanded(columns, tokens, index, SIZES.story_length, context)


def positions_of(rows: Rows, grid: Grid) -> Tensor:
    row, column = rows.numbers // grid[1], rows.numbers % grid[1]
    return torch.stack([rows.places, *(torch.where(rows.numbers >= 0, each, 0) for each in (row, column))])


@pytest.mark.parametrize("grid", [(8, 8), (6, 11)])
@pytest.mark.parametrize("course", ALL_COURSES, ids=lambda course: course.name)
def test_lessons_have_the_tokens_and_positions_of_the_programs_prompts(
    course: Course, grid: Grid, raw_tokenizer: RawTokenizer
) -> None:
    teacher = Teacher(Random(1))
    lessons = [course.make(teacher) for _ in range(20)]
    lessons = [Lesson(lesson.pieces[:1], lesson.pictures, lesson.target) for lesson in lessons]
    table, rows = rows_of(lessons, raw_tokenizer, grid)
    tokenizer = Tokenizer(DEMO_CHECKPOINT)
    positions = positions_of(rows, grid)
    for row, lesson in enumerate(lessons):
        text = lesson.pieces[0].text
        sequence = build_sequence(text, [grid] * text.count(IMAGE_SLOT), tokenizer, CPU)
        count = len(sequence)
        assert rows.tokens[row, :count].tolist() == sequence.ids.tolist()
        assert torch.equal(positions[:, row, :count], sequence.positions)
        if lesson.target:
            assert sequence.next_position == int(rows.next_place[row]) and int(rows.cut[row]) == count


@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (11, 6), (10, 10)])
@pytest.mark.parametrize("name", ["edit", "story"])
def test_training_and_the_program_predict_the_same_picture(
    grid: Grid, name: str, network: SenseNovaU1, raw_tokenizer: RawTokenizer
) -> None:
    """A prefix in a padded batch and the same prefix alone give the same predicted picture."""
    teacher, lessons = Teacher(Random(2)), []
    course = next(course for course in ALL_COURSES if course.name == name)
    while len(lessons) < 3:
        lesson = course.make(teacher)
        if name == "story" or (len(lesson.pieces) == 1 and lesson.pictures):
            lessons.append(lesson)
    _, rows = rows_of(lessons, raw_tokenizer, grid)
    stage, tokenizer = Stage(CPU), Tokenizer(DEMO_CHECKPOINT)
    lecture = Lecture(network, stage, Courses(), SIZES, 0.2, [])
    count, length = len(lessons), SIZES.length
    seen: list[Tensor] = []
    lecture._seen = recording(lecture, seen)  # type: ignore[method-assign]
    with torch.inference_mode():
        _, cache = lecture._read(rows, 0, [("plain", count)])
        noise = torch.randn(count, length, 3 * 32 * 32, generator=torch.Generator().manual_seed(0))
        times = torch.tensor([0.1, 0.4, 0.9])
        token_rows, token_columns, tokens = stage.tokens_of(rows.grids)
        hidden = lecture._drawn(
            noise, times, cache.joined(None, count), rows.cut, rows.next_place, rows.grids, token_rows, token_columns
        )
        size = int(tokens[0])
        batched = network.fm_head(hidden[:, :size], *grid)
        vision = network.config.vision
        patches = patch_rotary(2 * grid[0], 2 * grid[1], vision.hidden_size, vision.rope_theta, CPU)
        for row, lesson in enumerate(lessons):
            pictures = rows.pictures.shape[1]
            shown = seen[0].view(count, pictures, length, -1)[row, : len(lesson.pictures)]
            cut = int(rows.cut[row])
            number = int((rows.tokens[row, :cut] == tokenizer.image_context).sum()) // size
            sequence = sequence_of(rows, row, grid)
            embedded = [embed_image(network, tokens_to_picture(each[:size][None], *grid)) for each in shown[:number]]
            prefix = prefill(network, sequence, embedded, size)
            assert prefix.next_position == int(rows.next_place[row])
            conditioning = network.timestep_embedder(times[row, None])
            scale = torch.tensor([(size / 64) ** 0.5 / 16])
            conditioning = conditioning + network.noise_scale_embedder(scale)
            embeddings = network.embed_noisy(noise[row, None, :size], conditioning, grid, patches)
            rotary = attention_rotary(
                image_positions(prefix.next_position, *grid, CPU), network.config.transformer, network.dtype
            )
            alone = network.predict(embeddings, grid, [rotary], [prefix.cache])
            torch.testing.assert_close(batched[row, None], alone, rtol=1e-3, atol=1e-3)


def sequence_of(rows: Rows, row: int, grid: Grid) -> TokenSequence:
    """Return the part of a row that its picture sees. The model writes some of its words one by one."""
    cut = int(rows.cut[row])
    segments: list[Segment] = []
    for number in rows.numbers[row, :cut].tolist():
        if number <= 0:
            segments.append(Segment(0, causal=number < 0))
        segments[-1] = Segment(segments[-1].count + 1, segments[-1].causal)
    positions = positions_of(rows, grid)[:, row, :cut]
    return TokenSequence(rows.tokens[row, :cut], positions, tuple(segments), int(positions[0, -1]) + 1)


def recording(lecture: Lecture, seen: list[Tensor]):
    """Return the method that embeds the pictures of a batch, which also keeps their normalised pixels."""
    embedded, method = lecture._embedded, lecture._seen

    def embed(vision, tokens: Tensor, grids: Tensor) -> Tensor:
        seen.append(tokens)
        return embedded(vision, tokens, grids)

    def see(*arguments) -> Tensor:
        lecture._embedded = embed  # type: ignore[method-assign]
        try:
            return method(*arguments)
        finally:
            lecture._embedded = embedded  # type: ignore[method-assign]

    return see


def test_no_lesson_shows_a_held_out_scene() -> None:
    for course in ALL_COURSES:
        teacher = Teacher(Random(3))
        for lesson in (course.make(teacher) for _ in range(200)):
            for scene in (*(scene for scene, _ in lesson.pictures), lesson.target):
                assert scene is None or not scene.is_held_out


def test_all_sizes_are_trained_whatever_the_number_of_processes() -> None:
    for ranks in range(1, 6):
        trained = [grid for rank in range(ranks) for grid in sizes_of_rank(rank, ranks).grids]
        assert set(trained) == set(GRIDS)
