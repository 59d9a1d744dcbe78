"""A quick trial of a trained checkpoint: scores for each ability and size, and contact sheets.

    python -m model.demo.training.trial CHECKPOINT OUTPUT

It draws many pictures at once, with its own sampler instead of the engine's, which takes about a minute on a GPU.
`benchmarks.demo_eval` is the thorough examination.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from random import Random

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from model.backends.gpu import GpuAttention, GpuOperations
from model.checkpoint.loader import load_checkpoint
from model.demo.training.curriculum import Courses, Rows, Sizes, expanded
from model.demo.training.judging import closest, judge_shapes
from model.demo.training.layouts import GRIDS, Grid, pixels
from model.demo.training.lecture import Lecture
from model.demo.training.lessons import END_OF_TURN, PICTURES, Lesson, Piece, Table, encode_lessons, kept_variant
from model.demo.training.phrases import DESCRIBE, Editor, Speaker, article, caption
from model.demo.training.rendering import Stage
from model.demo.training.scenes import SEVERAL, SceneMaker
from model.demo.training.stories import NOT_THINKING, Story, Storyteller, story_message
from model.demo.training.variety import Freedom, Variant
from model.demo.training.world import OBJECTS, Placed, Scene, Thing, held_out_background
from model.inputs import prompts
from model.inputs.image_tensors import to_image
from model.network.flow import picture_to_tokens, tokens_to_picture
from model.network.sensenova import SenseNovaU1
from model.placeholders import PLACEHOLDER
from model.requests import Message

STEPS, SCALE, SHIFT, LEAST = 24, 2.5, 3.0, 0.02
COMPACT = 256
"""Most tokens of a sequence, with one token for each picture."""
MOST_WORDS = 120
BATCH = 64


class Artist(Lecture):
    """A network that draws pictures and writes texts of one size of picture, in batches."""

    def __init__(self, network: SenseNovaU1, tokenizer: Tokenizer, grid: Grid) -> None:
        device = network.device
        super().__init__(network, Stage(device, (grid,)), Courses([], [], [], []), Sizes((grid,)), 0.0, [])
        self.tokenizer, self.grid, self.stage = tokenizer, grid, self._stage
        self._shown: Tensor | None = None
        self.count = grid[0] * grid[1]
        self.context, self.image, self.end_of_image, self.end = (
            tokenizer.encode(text, add_special_tokens=False).ids[0]
            for text in ("<IMG_CONTEXT>", "<img>", "</img>", END_OF_TURN)
        )

    def _seen(self, rows: Rows, wordy: int, styles: Sequence[tuple[str, int]]) -> Tensor:
        """Embed the pictures that are given instead of those of the rows' codes."""
        assert self._shown is not None
        pictures = self._shown.shape[1]
        seen = ((self._shown.flatten(0, 1) * 0.5 + 0.5) - self._mean) / self._deviation
        embedded = self._embedded(self.network.und_vision, seen, rows.grids.repeat_interleave(pictures))
        number = (rows.which * self._length + rows.numbers).clamp(min=0)
        embedded = embedded.unflatten(0, (-1, pictures)).flatten(1, 2)
        return embedded.gather(1, number[..., None].expand(-1, -1, embedded.shape[-1]))

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a prompt, with one token for each `IMAGE_SLOT`."""
        lesson = Lesson((Piece(text),))
        table = encode_lessons([lesson], self.tokenizer, COMPACT, 10**6, 1)
        return table.tokens[0, : int(table.lengths[0])].tolist()

    def read(self, sequences: Sequence[list[int]], shown: Tensor | None) -> tuple[Tensor, Rows, object]:
        """Run the und tower; return logits behind the last tokens, the rows and the cache.

        Args:
            shown: the sequences' pictures as tokens, (B, K, L, 3·32²); None without any.
        """
        device, count = self.network.device, len(sequences)
        table = Table.empty(count, max(map(len, sequences)))
        for row, ids in enumerate(sequences):
            table.tokens[row, : len(ids)] = ids
            table.cuts[row, 0], table.drawn[row] = len(ids), 1
        columns = {field.name: torch.from_numpy(getattr(table, field.name)).to(device) for field in fields(Table)}
        most = max(sum(token == self.context for token in ids) for ids in sequences)
        length = -(-(table.tokens.shape[1] + most * (self.count - 1)) // 8) * 8
        tokens = torch.full((count,), self.count, device=device)
        rows = expanded(columns, tokens, torch.zeros_like(tokens), length, self.context)
        self._shown = shown if shown is not None and most else torch.zeros(count, 1, self._length, 3 * 1024, device=device)
        hidden, cache = self._read(rows, 0, [])
        last = hidden[torch.arange(count, device=device), rows.cut - 1]
        return self.network.logits(last[:, None])[:, 0], rows, cache.joined(None, count)

    def draw(
        self, sequences: Sequence[list[int]], others: Sequence[list[int]], shown: Tensor | None, seeds: Sequence[int],
        scale: float = SCALE,
    ) -> Tensor:  # fmt: skip
        """Draw a picture behind each sequence: tokens (B, L, 3·32²), not clamped. `others` are the guiding branch."""
        device, count = self.network.device, len(sequences)
        grids = torch.zeros(count, dtype=torch.long, device=device)
        token_rows, token_columns, _ = self._stage.tokens_of(grids)
        noise = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            width, height = pixels(self.grid)
            noise.append(picture_to_tokens(torch.randn(1, 3, height, width, generator=generator)))
        x = torch.cat(noise).to(device) * self._amplitudes[0]
        x = torch.nn.functional.pad(x, (0, 0, 0, self._length - self.count))
        branches = [self.read(each, shown)[1:] for each in ([sequences, others] if scale != 1 else [sequences])]
        sigmas = torch.linspace(1, 0, STEPS + 1)
        times = (1 - SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)).tolist()
        for now, then in zip(times, times[1:], strict=False):
            velocities = []
            for rows, cache in branches:
                t = torch.full((count,), now, device=device)
                hidden = self._drawn(x, t, cache, rows.cut, rows.next_place, grids, token_rows, token_columns)
                clean = self.network.fm_head(hidden[:, : self.count], *self.grid).float()
                clean = torch.nn.functional.pad(clean, (0, 0, 0, self._length - self.count))
                velocities.append((clean - x) / max(1 - now, LEAST))
            velocity = velocities[0]
            if scale != 1:
                velocity = velocities[1] + scale * (velocities[0] - velocities[1])
            x = x + (then - now) * velocity
        return x

    def write(self, sequences: list[list[int]], shown: Tensor | None, running: list[bool], most: int) -> None:
        """Append words to the running sequences until each begins a picture or ends; both tokens are appended, too."""
        running = [*running]
        for _ in range(most):
            if not any(running):
                return
            chosen = self.read(sequences, shown)[0].argmax(-1).tolist()
            for row, token in enumerate(chosen):
                if running[row]:
                    sequences[row].append(token)
                    running[row] = token not in (self.image, self.end)

    def pictures(self, tokens: Tensor) -> list[Image.Image]:
        return [to_image(tokens_to_picture(each[None, : self.count], *self.grid)) for each in tokens]


class Trial:
    """The scores of one network at one size."""

    def __init__(self, artist: Artist, cases: int) -> None:
        self.artist, self.cases, self.stage = artist, cases, artist.stage
        self.scores: dict[str, float] = {}
        self.failed: list[str] = []

    def generate(self, wishes: Sequence[str], seeds: Sequence[int], scale: float = SCALE) -> list[Image.Image]:
        drawn = []
        nothing = self.artist.ids(prompts.unconditional_prompt())
        for start in range(0, len(wishes), BATCH):
            part = wishes[start : start + BATCH]
            sequences = [self.artist.ids(prompts.generate_prompt(text, think=False)) for text in part]
            tokens = self.artist.draw(sequences, [nothing] * len(part), None, seeds[start : start + BATCH], scale)
            drawn += self.artist.pictures(tokens)
        return drawn

    def score(self, name: str, right: Sequence[bool]) -> None:
        self.scores[name] = 100 * sum(right) / max(1, len(right))

    def shapes(self) -> None:
        random = Random("generate")
        scenes, speaker = SceneMaker(random, held_out=True), Speaker(random)
        chosen = []
        while len(chosen) < self.cases:
            scene = scenes.scene(2 if len(chosen) % 4 == 3 else 1)
            if all(each.thing.kind == "shape" for each in scene.placed):
                chosen.append(scene)
        wishes = [speaker.wish(scene).prompt for scene in chosen]
        verdicts = [judge_shapes(*pair) for pair in zip(self.generate(wishes, [0] * len(wishes)), chosen, strict=True)]
        self.score("shapes", [verdict.look for verdict in verdicts])
        self.score("position", [verdict.position for verdict in verdicts])
        self.failed += [f"shapes: {wish} {verdict}" for wish, verdict in zip(wishes, verdicts, strict=True)
                        if not (verdict.look and verdict.position)]  # fmt: skip

    def objects(self) -> None:
        things = list(map(Thing, OBJECTS))[: 2 * self.cases]
        scenes = [Scene(held_out_background(thing), (Placed(thing, "large"),)) for thing in things]
        wishes = [f"{article(scene.placed[0].thing.name)} on {article(scene.background)} background" for scene in scenes]
        found = [closest(picture, scene, self.stage).decibels
                 for picture, scene in zip(self.generate(wishes, [0] * len(wishes)), scenes, strict=True)]  # fmt: skip
        self.scores["objects dB"], self.scores["least dB"] = sum(found) / len(found), min(found)

    def two(self) -> None:
        self._alike("two", 2)

    def several(self) -> None:
        self._alike("several", SEVERAL)

    def _alike(self, name: str, things: int) -> None:
        random = Random(name)
        scenes, speaker = SceneMaker(random, held_out=True), Speaker(random)
        chosen = [scenes.scene(things) for _ in range(self.cases)]
        wishes = [speaker.wish(scene) for scene in chosen]
        pictures = self.generate([wish.prompt for wish in wishes], [0] * len(chosen))
        right = [closest(picture, scene, self.stage, wish.freedom).is_like
                 for picture, scene, wish in zip(pictures, chosen, wishes, strict=True)]  # fmt: skip
        self.score(name, right)
        self.failed += [f"{name}: {wish.prompt}" for wish, good in zip(wishes, right, strict=True) if not good]

    def seeds(self) -> None:
        """Score different seeds of open prompts: pictures that come out, on another background than gray."""
        names = ("cat", "dog", "rocket", "star", "cake", "tree", "owl", "fish")
        wishes, scenes, seeds = [], [], []
        for name in names:
            for seed in range(4):
                wishes.append(f"a {name}")
                seeds.append(seed)
                scenes.append(Scene("gray", (Placed(Thing(name, "red" if name == "star" else None), "large"),)))
        pictures = self.generate(wishes, seeds)
        freedom = Freedom(background=True, colors=True)
        matches = [closest(*pair, self.stage, freedom) for pair in zip(pictures, scenes, strict=True)]
        self.score("open", [match.is_like and match.scene.background != "gray" for match in matches])
        kinds = {(index // 4, match.scene.background, match.variant) for index, match in enumerate(matches)}
        self.scores["different"] = 100 * len(kinds) / len(matches)

    def edits(self) -> None:
        random = Random("edit")
        scenes, editor = SceneMaker(random, held_out=True), Editor(random)
        kinds = {"recolor": 16, "background": 20, "replace": 20, "move": 13, "resize": 5, "add": 14, "remove": 12,
                 "grayscale": 6, "oil painting": 10}  # fmt: skip
        cases = []
        for _ in range(self.cases):
            kind = random.choices(list(kinds), list(kinds.values()))[0]
            before, after = scenes.edited(kind)
            cases.append((editor.edit(kind, before, after).instruction, before, after, Variant.any(random)))
        right = []
        for start in range(0, len(cases), BATCH):
            part = cases[start : start + BATCH]
            shown = torch.stack([self._tokens(before, variant)[None] for _, before, _, variant in part])
            sequences = [self.artist.ids(prompts.edit_prompt(text, 1, think=False)) for text, *_ in part]
            images = [self.artist.ids(prompts.images_prompt(1))] * len(part)
            pictures = self.artist.pictures(self.artist.draw(sequences, images, shown, [0] * len(part)))
            for picture, (text, before, after, variant) in zip(pictures, part, strict=True):
                match = closest(picture, after, self.stage, variant=kept_variant(before, after, variant))
                good = match.is_like and closest(picture, before, self.stage, variant=variant).decibels < match.decibels
                right.append(good)
                self.failed += [] if good else [f"edit: {text} ({before})"]
        self.score("edit", right)

    def describe(self) -> None:
        random = Random("describe")
        scenes = SceneMaker(random, held_out=True)
        chosen = [scenes.scene((1, 1, 2, SEVERAL)[number % 4]) for number in range(self.cases)]
        variants = [Variant.any(random) for _ in chosen]
        shown = torch.stack([self._tokens(*pair)[None] for pair in zip(chosen, variants, strict=True)])
        text = f"{PLACEHOLDER}\n"
        sequences = [self.artist.ids(prompts.answer_prompt([Message("user", text + random.choice(DESCRIBE))], 1, ""))
                     for _ in chosen]  # fmt: skip
        starts = [len(ids) for ids in sequences]
        self.artist.write(sequences, shown, [True] * len(chosen), 48)
        right = []
        for ids, start, scene in zip(sequences, starts, chosen, strict=True):
            said = self.artist.tokenizer.decode([token for token in ids[start:] if token != self.artist.end])
            right.append(said == caption(scene))
            self.failed += [] if right[-1] else [f"describe: {caption(scene)!r} {said!r}"]
        self.score("describe", right)

    def _tokens(self, scene: Scene, variant: Variant | None = None) -> Tensor:
        """Return the true picture of a scene as padded tokens, (L, 3·32²)."""
        tokens = picture_to_tokens(self.stage.picture(scene, variant, self.artist.grid))[0]
        return torch.nn.functional.pad(tokens, (0, 0, 0, self.artist._length - self.artist.count))

    def stories(self, think: bool) -> list[tuple[Story, list[str], list[Image.Image]]]:
        """Score stories: the right texts and number of pictures, and pictures that show what the texts say."""
        artist, device = self.artist, self.artist.network.device
        random = Random("stories")
        teller = Storyteller(random, SceneMaker(random), held_out=True)
        told = [teller.tell() for _ in range(self.cases)]
        sequences = []
        for story in told:
            user = prompts.place_images([Message("user", story.prompt)], 0 if story.source is None else 1)
            sequences.append(artist.ids(prompts.chat_ml(user, story_message(), "" if think else NOT_THINKING)))
        starts = [len(ids) for ids in sequences]
        shown = torch.zeros(len(told), PICTURES + 1, artist._length, 3 * 1024, device=device)
        guides: list[list[int]] = []
        for row, story in enumerate(told):
            first = 0 if story.source is None else 1
            guides.append(artist.ids(prompts.images_prompt(first))[:-1])
            if story.source is not None:
                shown[row, 0] = self._tokens(story.source)
        pictures: list[list[Image.Image]] = [[] for _ in told]
        running = [True] * len(told)
        for number in range(PICTURES + 1):
            artist.write(sequences, shown, running, MOST_WORDS)
            running = [alive and ids[-1] == artist.image and number < PICTURES
                       for alive, ids in zip(running, sequences, strict=True)]  # fmt: skip
            rows = [row for row, alive in enumerate(running) if alive]
            if not rows:
                break
            for row in rows:
                guides[row].append(artist.image)
            drawn = artist.draw([sequences[row] for row in rows], [guides[row] for row in rows], shown[rows],
                                [number] * len(rows))  # fmt: skip
            for row, tokens, picture in zip(rows, drawn, artist.pictures(drawn), strict=True):
                first = 0 if told[row].source is None else 1
                if number + first <= PICTURES:
                    shown[row, number + first] = tokens
                pictures[row].append(picture)
                sequences[row] += [artist.context, artist.end_of_image]
                guides[row] += [artist.context, artist.end_of_image]
        results, order, show = [], [], []
        for story, ids, start, made in zip(told, sequences, starts, pictures, strict=True):
            texts = self._texts(ids[start:])
            wanted = [page.text for page in story.pages]
            got = [text.replace("<think>\n", "") for text in texts[: len(made)]]
            order.append(len(made) == len(wanted) and got == wanted)
            matches = [closest(picture, page.scene, self.stage, page.freedom).is_like
                       for picture, page in zip(made, story.pages, strict=False)]  # fmt: skip
            show += matches + [False] * (len(wanted) - len(matches))
            if not order[-1] or not all(matches):
                self.failed.append(f"story: {story.prompt!r} {texts} {matches}")
            results.append((story, texts, made))
        name = "think" if think else "story"
        self.score(f"{name} order", order)
        self.score(f"{name} shows", show)
        return results

    def _texts(self, ids: Sequence[int]) -> list[str]:
        """Return the texts between the pictures."""
        parts: list[list[int]] = [[]]
        for token in ids:
            if token == self.artist.context:
                parts.append([])
            elif token not in (self.artist.image, self.artist.end_of_image, self.artist.end):
                parts[-1].append(token)
        return [self.artist.tokenizer.decode(part, skip_special_tokens=False) for part in parts]


def sheet(pictures: Sequence[Image.Image], columns: int, scale: float) -> Image.Image:
    """Return pictures of one size in rows."""
    width, height = (round(side * scale) for side in pictures[0].size)
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), (90, 90, 90))
    for index, picture in enumerate(pictures):
        whole.paste(picture.resize((width, height)), (index % columns * (width + 4), index // columns * (height + 4)))
    return whole


WISHES = (
    "a cat", "a cat", "a dog", "a dog", "two cats", "three stars", "a red circle and a blue star", "a rocket",
    "a cute owl", "three dogs on a pink background", "two red hearts", "a house next to a tree", "a small fox",
    "a castle on a green background", "a bee above a sunflower", "an oil painting of a lion",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path, help="folder for the table and the contact sheets")
    parser.add_argument("--cases", type=int, default=48, help="cases of each ability and size")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(range(len(GRIDS))), help="indices of sizes")
    options = parser.parse_args()
    began = time.time()
    options.output.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = load_checkpoint(options.checkpoint, device, dtype)
    if device.type == "cuda":
        network.und.operations = network.gen.operations = GpuOperations(GpuAttention(groups_heads=False))
    tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
    lines = []

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        (options.output / "trial.txt").write_text("\n".join(lines) + "\n")

    with torch.inference_mode():
        for number in options.sizes:
            grid = GRIDS[number]
            artist = Artist(network, tokenizer, grid)
            trial = Trial(artist, options.cases)
            width, height = pixels(grid)
            if number in (0, 5, 7, 8):
                made = trial.generate(WISHES, [number % 3 for number in range(len(WISHES))])
                sheet(made, 8, 0.5).save(options.output / f"sheet-{width}x{height}.png", optimize=True)
            for examine in (trial.shapes, trial.objects, trial.two, trial.several, trial.seeds, trial.edits, trial.describe):
                examine()
                print(f"{width}x{height} {trial.scores} ({time.time() - began:.0f} s)", flush=True)
            stories = trial.stories(think=False) if artist.count <= 72 else []
            if number == 0:
                trial.stories(think=True)
            scores = "  ".join(f"{name} {score:.0f}" for name, score in trial.scores.items())
            tell(f"{width}x{height}: {scores}   ({time.time() - began:.0f} s)")
            for line in trial.failed[:40]:
                lines.append(f"    {line}")
            if number == 0 and stories:
                blank = Image.new("RGB", (width, height))
                shown = [picture for _, _, made in stories[:24] for picture in (made + [blank] * 4)[:4]]
                sheet(shown, 12, 0.4).save(options.output / "stories.png", optimize=True)
                told = [f"{story.prompt}: {' | '.join(texts)}" for story, texts, _ in stories[:24]]
                (options.output / "stories.txt").write_text("\n".join(told) + "\n")
    tell(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
