"""Training and the program agree: the same tokens, positions and predictions. A training runs, stops and continues."""

import argparse
import json
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

from config.recommended import read_recommended
from config.sizes import Size
from model.backends.gpu import GpuAttention, GpuOperations
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.demo.training import tables, train
from model.demo.training.courses import ALL_COURSES, GROUPS, MIXED, SIZE_SHARES, STORIES, rows_of_step, size_of_step
from model.demo.training.lecture import Lecture, Rows, grid, token_positions
from model.demo.training.lessons import Lesson, Piece, Teacher, story_pieces
from model.demo.training.network_start import starting_network
from model.demo.training.rendering import Stage
from model.demo.training.scenes import SceneMaker
from model.demo.training.stories import Page, Story
from model.demo.training.tables import Encoder, make_batch
from model.demo.training.vocabulary import context_id, with_capitals
from model.demo.training.workers import Workers
from model.demo.training.world import SIZES
from model.inputs.image_tensors import prepare_drawn
from model.inputs.prompts import IMAGE_SLOT, interleave_prompt
from model.inputs.token_sequence import build_sequence
from model.inputs.tokenizer import Tokenizer
from model.network.operations import Operations
from model.network.rope import attention_rotary, image_positions
from model.network.sensenova import SenseNovaU1
from model.requests import Message
from model.sampling.prefill import embed_image, extend_prefix, prefill
from model.sampling.schedule import noise_amplitude

CPU = torch.device("cpu")
WIDE: Size = (352, 192)


@pytest.fixture(scope="module")
def raw_tokenizer(lesson_words: Path) -> RawTokenizer:
    return RawTokenizer.from_file(str(lesson_words / "tokenizer.json"))


@pytest.fixture(scope="module")
def tokenizer(lesson_words: Path) -> Tokenizer:
    return Tokenizer(lesson_words)


@pytest.fixture(scope="module")
def network(raw_tokenizer: RawTokenizer) -> SenseNovaU1:
    return starting_network(DEMO_CHECKPOINT, raw_tokenizer, CPU, torch.float32)


def tokens_of(size: Size) -> int:
    rows, columns = grid(size)
    return rows * columns


def positions_of(rows: Rows, size: Size, context: int) -> Tensor:
    is_picture = rows.tokens == context
    within = (is_picture.cumsum(1) - 1).clamp(min=0) % tokens_of(size)
    return token_positions(is_picture, within, size)


@pytest.mark.parametrize("course", ALL_COURSES, ids=lambda course: course.name)
def test_lessons_have_the_tokens_and_positions_of_the_programs_prompts(course, raw_tokenizer, tokenizer) -> None:
    teacher = Teacher(Random(1))
    lessons = [course.make(teacher) for _ in range(12)]
    prompts = [lesson.pieces[0].text for lesson in lessons]
    first = [
        Lesson(lesson.pieces[:1], lesson.sources[: text.count(IMAGE_SLOT)])
        for lesson, text in zip(lessons, prompts, strict=True)
    ]
    group = next(each for each in GROUPS if course in each.courses)
    rows = Rows.of(Encoder(raw_tokenizer).encode(first, group, tokens_of(WIDE)), CPU)
    positions = positions_of(rows, WIDE, tokenizer.image_context)
    for row, text in enumerate(prompts):
        sequence = build_sequence(text, [grid(WIDE)] * text.count(IMAGE_SLOT), tokenizer, CPU)
        count = int(rows.lengths[row])
        assert rows.tokens[row, :count].tolist() == sequence.ids.tolist()
        assert torch.equal(positions[:, row, :count], sequence.positions)
        assert sequence.next_position == int(positions[0, row, count - 1]) + 1


def a_story() -> Story:
    maker = SceneMaker(Random(8))
    first, second = maker.single(open_place=True), maker.several(3)
    return Story(
        "a picture book with a cat and a star",
        "I will show a cat, then a star.",
        (Page("Here is a cat.", first), Page("Then comes a star.", second)),
        "The end.",
    )


class Reader:
    """Reads an answer with pictures as `model.tasks.interleave` does.

    Attributes:
        prefix: the prefix that has been read.
        ids: the ids of all tokens in it.
        before: for each picture, tokens and next position of the prefix behind which it is drawn.
    """

    def __init__(self, network: SenseNovaU1, raw: RawTokenizer, tokenizer: Tokenizer, text: str) -> None:
        self._network, self._tokenizer, self._cased = network, tokenizer, with_capitals(raw)
        sequence = build_sequence(text, [], tokenizer, CPU)
        self.prefix, self.ids = prefill(network, sequence, [], 0), sequence.ids.tolist()
        self.before: list[tuple[int, int]] = []

    def write(self, text: str, picture: Tensor) -> None:
        """Write a text, draw a picture, (1, 3, height, width), and read it."""
        written = [*self._cased.encode(text, add_special_tokens=False).ids, self._tokenizer.image_start]
        extend_prefix(self._network, self.prefix, written)
        self.before.append((self.prefix.cache.length, self.prefix.next_position))
        seen = embed_image(self._network, prepare_drawn(picture))
        first = self.prefix.next_position - 1
        sequence = build_sequence(IMAGE_SLOT, [grid(WIDE)], self._tokenizer, CPU, first).after(1)
        self.prefix = prefill(self._network, sequence, [seen], 0, self.prefix.cache)
        self.ids += [*written, *sequence.ids.tolist()]


@pytest.mark.parametrize("think", [False, True])
def test_a_story_is_read_as_the_program_reads_its_own_answer(
    think: bool, network: SenseNovaU1, raw_tokenizer: RawTokenizer, tokenizer: Tokenizer, stage: Stage
) -> None:
    story = a_story()
    scenes = tuple(page.scene for page in story.pages)
    lesson = Lesson(story_pieces(story, think=think), scenes, scenes[1], drawn=1)
    rows = Rows.of(Encoder(raw_tokenizer).encode([lesson], STORIES, tokens_of(WIDE)), CPU)
    with torch.inference_mode():
        prompt = interleave_prompt([Message("user", story.prompt)], 0, None, think)
        reader = Reader(network, raw_tokenizer, tokenizer, prompt)
        thought = f"<think>\n{story.thought}\n</think>\n\n" if think else ""
        for text, scene in zip((thought + story.pages[0].text, story.pages[1].text), scenes, strict=True):
            reader.write(text, stage.picture(scene, WIDE))
        pictures = stage.render(rows.sources.flatten(0, 1), WIDE).unflatten(0, (1, -1))
        hidden, _, positions = Lecture(network, stage, tokenizer.image_context).read(rows, pictures, WIDE)
    last = len(reader.ids) - 1
    assert rows.tokens[0, : last + 1].tolist() == reader.ids
    length, next_position = reader.before[1]
    assert int(rows.prefixes[0]) == length
    assert int(positions[0, 0, length - 1]) + 1 == next_position
    assert int(positions[0, 0, last]) + 1 == reader.prefix.next_position
    torch.testing.assert_close(hidden[0, last], reader.prefix.last_hidden[0, 0], rtol=1e-3, atol=1e-3)
    learned = [raw_tokenizer.id_to_token(number) for number in rows.tokens[0][rows.learned[1]].tolist()]
    assert learned.count("<img>") == 2 and learned[-1] == "<|im_end|>" and "</img>" not in learned
    assert ("<think>" in learned) == think


def test_training_and_the_program_predict_the_same_picture(network, raw_tokenizer, tokenizer, stage) -> None:
    """A prefix in a padded batch and the same prefix alone give the same predicted picture."""
    teacher, lessons = Teacher(Random(2)), []
    while len(lessons) < 3:
        lesson = teacher.edit(("background", "move"))
        lessons += [lesson] if len(lesson.pieces) == 1 and lesson.sources else []
    rows = Rows.of(Encoder(raw_tokenizer).encode(lessons, MIXED, tokens_of(WIDE)), CPU)
    lecture = Lecture(network, stage, tokenizer.image_context)
    sources, count = stage.render(rows.sources[:, 0], WIDE), tokens_of(WIDE)
    amplitude = noise_amplitude(count, network.config.flow)
    with torch.inference_mode():
        _, cache, positions = lecture.read(rows, sources[:, None], WIDE)
        noisy = torch.randn(3, count, 3 * 32 * 32, generator=torch.Generator().manual_seed(0))
        times = torch.tensor([0.1, 0.4, 0.9])
        following = positions[0].gather(1, rows.prefixes[:, None] - 1)[:, 0] + 1
        batched = lecture.predict(noisy, times, cache.first_rows(3), rows.prefixes, following, WIDE)
        for row, lesson in enumerate(lessons):
            picture = embed_image(network, prepare_drawn(sources[row, None]))
            sequence = build_sequence(lesson.pieces[0].text, [grid(WIDE)], tokenizer, CPU)
            prefix = prefill(network, sequence, [picture], count)
            assert prefix.next_position == int(following[row])
            scale = torch.tensor([amplitude / network.config.flow.noise_scale_max])
            conditioning = network.timestep_embedder(times[row, None]) + network.noise_scale_embedder(scale)
            embeddings = network.embed_noisy(noisy[row, None], conditioning, grid(WIDE), lecture.patches(WIDE))
            where = image_positions(prefix.next_position, *grid(WIDE), CPU)
            rotary = attention_rotary(where, network.config.transformer, network.dtype)
            alone = network.predict(embeddings, grid(WIDE), [rotary], [prefix.cache])
            torch.testing.assert_close(batched[row, None], alone, rtol=1e-3, atol=1e-3)


def test_the_attention_of_a_gpu_gives_the_same_losses_and_gradients(
    network: SenseNovaU1, raw_tokenizer: RawTokenizer, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "size_of_step", lambda step: (192, 192))
    batch = make_batch(0, Encoder(raw_tokenizer), rows=1)
    weight = network.gen.norm.weight.requires_grad_(True)
    results = []
    for operations in (Operations(), GpuOperations(GpuAttention(groups_heads=False))):
        for tower in (network.und, network.gen):
            monkeypatch.setattr(tower, "operations", operations)
        torch.manual_seed(0)
        losses = Lecture(network, stage, context_id(raw_tokenizer)).losses(batch)
        (gradient,) = torch.autograd.grad(sum(losses), weight)
        results.append((*losses, gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)


def test_no_lesson_shows_a_held_out_scene() -> None:
    for course in ALL_COURSES:
        teacher = Teacher(Random(3))
        for lesson in (course.make(teacher) for _ in range(200)):
            assert not any(scene.is_held_out for scene in (*lesson.sources, lesson.target) if scene)


def test_old_words_keep_their_weights_and_new_ones_begin_as_their_letters(
    network: SenseNovaU1, raw_tokenizer: RawTokenizer
) -> None:
    old = RawTokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))
    assert set(old.get_vocab()) < set(raw_tokenizer.get_vocab())
    older = starting_network(DEMO_CHECKPOINT, old, CPU, torch.float32)
    ids = [each.encode("<img>a red circle and a cat", add_special_tokens=False).ids for each in (old, raw_tokenizer)]
    for before, after in ((older.embed_tokens, network.embed_tokens), (older.lm_head, network.lm_head)):
        assert torch.equal(before.weight[ids[0]], after.weight[ids[1]])
    new = raw_tokenizer.token_to_id("Ġcats")
    assert new is not None and old.token_to_id("Ġcats") is None
    spelled = [old.token_to_id(letter) for letter in "Ġcats"]
    torch.testing.assert_close(network.lm_head.weight[new], older.lm_head.weight[spelled].mean(0))


def test_every_step_has_one_size_and_all_courses() -> None:
    assert {size_of_step(step) for step in range(400)} == set(SIZES) == set(SIZE_SHARES)
    small, large = rows_of_step((256, 256), 500), rows_of_step((320, 320), 500)
    assert sum(small.values()) == pytest.approx(500, abs=10)
    assert sum(large.values()) == pytest.approx(500 * 256**2 / 320**2, abs=10)
    assert min(rows_of_step((320, 320), 1).values()) == 1


def test_workers_make_the_batches_of_all_steps_in_order(raw_tokenizer) -> None:
    workers = Workers(raw_tokenizer, first_step=5, rows=17, processes=2)
    try:
        made = [batch for _, batch in zip(range(3), workers.batches(), strict=False)]
    finally:
        workers.close()
    encoder = Encoder(raw_tokenizer)
    for step, batch in enumerate(made, start=5):
        alone = make_batch(step, encoder, rows=17)
        assert batch.size == alone.size == size_of_step(step)
        for name, table in batch.tables.items():
            assert (table.tokens == alone.tables[name].tokens).all()
            assert (table.targets == alone.tables[name].targets).all()
    other = make_batch(5, encoder, rows=17, rank=1)
    assert other.size == made[0].size
    assert not (other.tables["words"].targets == made[0].tables["words"].targets).all()


def test_a_lesson_with_too_much_text_is_replaced(raw_tokenizer) -> None:
    teacher = Teacher(Random(4))
    short = teacher.chat()
    long = Lesson((Piece("nonsense " * 40),))
    table = Encoder(raw_tokenizer).encode([short, long], MIXED, 64)
    assert (table.tokens[0] == table.tokens[1]).all()
    with pytest.raises(ValueError, match="tokens of text"):
        Encoder(raw_tokenizer).encode([long], MIXED, 64)


def trained(folder: Path, steps: int, **changes: object) -> None:
    arguments = {
        "folder": folder, "minutes": None, "total_minutes": 10.0, "steps": steps, "start_from": DEMO_CHECKPOINT,
        "new": False, "save_minutes": 2.0, "learning_rate": 1e-3, "early": 0.3, "rows": 1, "workers": 1,
    }  # fmt: skip
    train.train(argparse.Namespace(**{**arguments, **changes}))


def test_a_training_runs_stops_and_continues(
    tmp_path: Path, lesson_words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shortest steps: one lesson of each course, with the smallest pictures."""
    monkeypatch.setattr(tables, "size_of_step", lambda step: (192, 192))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((lesson_words / "tokenizer.json").read_bytes())
    trained(folder, steps=1)
    trained(folder, steps=2)
    assert "begins at step 1" in capsys.readouterr().out
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    losses = lines[0]["losses"]
    assert set(losses) == {"all", *(course.name for course in ALL_COURSES)}
    assert "picture" in losses["story"] and "text" in losses["story"] and "picture" not in losses["chat"]
    assert lines[1]["minutes"] > lines[0]["minutes"] > 0
    recommended = read_recommended(folder / "step-000002")
    assert recommended.trained_sizes == SIZES and recommended.answers_with_pictures
    assert not read_recommended(DEMO_CHECKPOINT).answers_with_pictures
    # The checkpoint alone is enough to continue elsewhere.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tokenizer.json").write_bytes((lesson_words / "tokenizer.json").read_bytes())
    trained(elsewhere, steps=2, start_from=folder / "step-000002", minutes=0.25)
    assert "begins at step 2" in capsys.readouterr().out
    assert not [*elsewhere.glob("step-*")]  # there was nothing to do
