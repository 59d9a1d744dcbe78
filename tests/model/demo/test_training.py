"""Training and the program agree: the same tokens, positions and predictions."""

from collections.abc import Sequence
from random import Random

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.checkpoint.loader import load_checkpoint
from model.demo.training.lecture import GRID, Courses, Lecture, Rows, token_positions
from model.demo.training.lessons import ALL_COURSES, PICTURE_TOKENS, Lesson, Teacher, encode_lessons
from model.demo.training.rendering import Stage
from model.demo.training.train import MIXED_LENGTH
from model.inputs.image_tensors import IMAGENET_MEAN, IMAGENET_STD
from model.inputs.prompts import IMAGE_SLOT
from model.inputs.token_sequence import build_sequence
from model.inputs.tokenizer import Tokenizer
from model.network.rope import attention_rotary, image_positions, patch_rotary
from model.network.sensenova import SenseNovaU1
from model.sampling.prefill import embed_image, prefill


@pytest.fixture(scope="module")
def network() -> SenseNovaU1:
    return load_checkpoint(DEMO_CHECKPOINT, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def raw_tokenizer() -> RawTokenizer:
    return RawTokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))


def read_by_the_program(lesson: Lesson) -> str:
    """Return a lesson's sequence up to the first word that the model writes."""
    return lesson.pieces[0].text


def encoded(lessons: Sequence[Lesson], raw: RawTokenizer) -> tuple[Tensor, Tensor]:
    table = encode_lessons(lessons, raw, MIXED_LENGTH)
    return torch.from_numpy(table.tokens).long(), torch.from_numpy(table.lengths).long()


@pytest.mark.parametrize("course", ALL_COURSES, ids=lambda course: course.name)
def test_lessons_have_the_tokens_and_positions_of_the_programs_prompts(course, raw_tokenizer) -> None:
    teacher = Teacher(Random(1))
    lessons = [Lesson(lesson.pieces[:1], lesson.source, lesson.target) for lesson in map(course.make, [teacher] * 20)]
    tokens, lengths = encoded(lessons, raw_tokenizer)
    tokenizer = Tokenizer(DEMO_CHECKPOINT)
    is_picture = tokens == tokenizer.image_context
    positions = token_positions(is_picture, (is_picture.cumsum(1) - 1).clamp(min=0))
    for row, lesson in enumerate(lessons):
        grids = [GRID] * read_by_the_program(lesson).count(IMAGE_SLOT)
        sequence = build_sequence(read_by_the_program(lesson), grids, tokenizer, torch.device("cpu"))
        count = int(lengths[row])
        assert tokens[row, :count].tolist() == sequence.ids.tolist()
        assert torch.equal(positions[:, row, :count], sequence.positions)
        assert sequence.next_position == int(positions[0, row, count - 1]) + 1


def test_training_and_the_program_predict_the_same_picture(network: SenseNovaU1, raw_tokenizer: RawTokenizer) -> None:
    """A prefix in a padded batch and the same prefix alone give the same predicted picture."""
    teacher = Teacher(Random(2))
    lessons = [teacher.edit(("background", "move")) for _ in range(4)]
    while any(len(lesson.pieces) > 1 or lesson.source is None for lesson in lessons):
        lessons = [teacher.edit(("background", "move")) for _ in range(4)]
    table = encode_lessons(lessons, raw_tokenizer, MIXED_LENGTH)
    rows = Rows(
        *(torch.from_numpy(getattr(table, name)).long() for name in ("tokens", "learned", "lengths")),
        *(torch.from_numpy(getattr(table, name)).long() for name in ("source", "target")),
    )
    stage, tokenizer = Stage(torch.device("cpu")), Tokenizer(DEMO_CHECKPOINT)
    lecture = Lecture(network, stage, Courses(), tokenizer.image_context, early=0.2)
    sources = stage.render(rows.source)
    with torch.inference_mode():
        _, cache, next_positions = lecture._read(rows, sources)
        noisy = torch.randn(4, PICTURE_TOKENS, 3 * 32 * 32, generator=torch.Generator().manual_seed(0))
        times = torch.tensor([0.1, 0.3, 0.6, 0.9])
        batched = lecture._predict(noisy, times, cache.joined(cache, 0), rows.lengths, next_positions)
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        vision = network.config.vision
        patches = patch_rotary(2 * GRID[0], 2 * GRID[1], vision.hidden_size, vision.rope_theta, network.device)
        for row, lesson in enumerate(lessons):
            picture = embed_image(network, ((sources[row, None] * 0.5 + 0.5) - mean) / deviation)
            sequence = build_sequence(lesson.pieces[0].text, [GRID], tokenizer, network.device)
            prefix = prefill(network, sequence, [picture], PICTURE_TOKENS)
            assert prefix.next_position == int(next_positions[row])
            conditioning = network.timestep_embedder(times[row, None])
            conditioning = conditioning + network.noise_scale_embedder(torch.tensor([1 / 16]))
            embeddings = network.embed_noisy(noisy[row, None], conditioning, GRID, patches)
            positions = image_positions(prefix.next_position, *GRID, network.device)
            rotary = attention_rotary(positions, network.config.transformer, network.dtype)
            alone = network.predict(embeddings, GRID, [rotary], [prefix.cache])
            torch.testing.assert_close(batched[row, None], alone, rtol=1e-3, atol=1e-3)


def test_no_lesson_shows_a_held_out_scene() -> None:
    for course in ALL_COURSES:
        teacher = Teacher(Random(3))
        for lesson in (course.make(teacher) for _ in range(200)):
            for scene in (lesson.source, lesson.target):
                assert scene is None or not scene.is_held_out
