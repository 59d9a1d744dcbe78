"""Notices about prompts and pictures that are outside of the world of a small model, such as the demo."""

from collections.abc import Sequence

from PIL import Image

from config.recommended import Recommended
from model import DEMO_MODEL
from sensenova_cli.turns.tasks import AnswerTask, InterleaveTask, PictureTask, Task

SAMPLE_SIDE = 32
"""Pictures are reduced to this number of pixels a side before their border is compared."""
SAME_COLOR = 48
"""Largest difference of a channel, 0 to 255, at which two pixels of a background count as equal."""
PLAIN_SHARE = 0.85
"""Least part of a border that has one color in pictures of shapes and objects on a plain background."""
MOST_SHOWN = 40
"""Maximum number of characters of a prompt in a notice."""
LIST_HINT = f"for a list of what it knows: sensenova info {DEMO_MODEL}"


def world_notices(task: Task, recommended: Recommended) -> list[str]:
    """Return one notice if a task is outside of the model's world, else none.

    Args:
        recommended: the recommendations of a small model list the things that it can draw. Other models have no limits.
    """
    world = recommended.world
    if world is None:
        return []
    if isinstance(task, InterleaveTask) and not recommended.answers_with_pictures:
        return ["The demo has not learned to answer with pictures; the published models have: `model=u1-8b`"]
    is_edit = isinstance(task, PictureTask) and task.kind == "edit"
    images = task.images if isinstance(task, AnswerTask) else [each.image for each in task.inputs]
    if not all(map(has_plain_border, images)):
        what = "edit" if is_edit else "answer"
        return [f"The demo only understands pictures like its own, so its {what} is a guess; {LIST_HINT}"]
    if isinstance(task, AnswerTask):
        return []
    prompt = task.prompt.text
    if world.knows_edit(prompt) if is_edit else world.knows(prompt):
        return []
    shown = prompt if len(prompt) <= MOST_SHOWN else f"{prompt[: MOST_SHOWN - 1].rstrip()}…"
    known = f"{len(world.shapes)} shapes and {len(world.objects)} objects"
    instead = "may change anything" if is_edit else f"draws one of its {known} instead"
    return [f'The demo knows nothing in "{shown}" and {instead}; {LIST_HINT}']


def has_plain_border(image: Image.Image) -> bool:
    """Return whether most of a picture's border has one color, as in the pictures that the demo was trained on."""
    sample = image.convert("RGB").resize((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.NEAREST).tobytes()
    places = [(x, y) for x in range(SAMPLE_SIDE) for y in range(SAMPLE_SIDE) if {x, y} & {0, SAMPLE_SIDE - 1}]
    border = [sample[3 * (y * SAMPLE_SIDE + x) :][:3] for x, y in places]
    median = [sorted(values)[len(values) // 2] for values in zip(*border, strict=True)]
    return _share_near(border, median) >= PLAIN_SHARE


def _share_near(pixels: Sequence[Sequence[int]], color: Sequence[int]) -> float:
    """Return the part of the pixels that nearly have a color."""
    near = [all(abs(a - b) <= SAME_COLOR for a, b in zip(pixel, color, strict=True)) for pixel in pixels]
    return sum(near) / len(near)
