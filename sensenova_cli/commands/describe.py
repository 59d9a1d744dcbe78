"""`sensenova describe`: describes pictures and answers questions about them."""

from pathlib import Path
from typing import Annotated

import typer

from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import (
    ENGINE_OPTIONS,
    RUN_OPTIONS,
    TEXT_OPTIONS,
    with_options,
)

ONE_PICTURE = "Describe this image in detail."
SEVERAL_PICTURES = "Describe each of these images, and what they have in common."


@with_options(
    "image", "prompt_text", *TEXT_OPTIONS, "log", "notify", "copy", *ENGINE_OPTIONS, "enable_cpu_offload", *RUN_OPTIONS
)
def describe(
    flags: Flags,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="Pictures; - reads one from standard input.", show_default=False),
    ] = None,
) -> None:
    """Describe pictures, or answer a question about them (-p).

    Examples
      sensenova describe cat.png
      sensenova describe cat.png -p "Which animal is this?"
      sensenova describe a.png b.png -p "What changed from Image-1 to Image-2?"
      sensenova describe cat.png --json | jq -r .text
    """
    # Imported here because these modules import Pillow, which `--help` does not need.
    from sensenova_cli.errors import UsageError
    from sensenova_cli.inputs.argv import PICTURE_ENDINGS, is_picture
    from sensenova_cli.inputs.expansion import with_one_seed
    from sensenova_cli.inputs.pictures import read_inputs
    from sensenova_cli.inputs.prompts import read_text, refuse_stdin_twice

    names = [*(images or ()), *flags.image]
    if not names:
        raise UsageError("there is no picture to describe", "name one: sensenova describe FILE")
    for name in images or ():
        if any(map(str.isspace, name)) and not is_picture(name) and Path(name).suffix.lower() not in PICTURE_ENDINGS:
            raise UsageError(
                f"there is no file {name}", f'a question goes after -p: sensenova describe FILE -p "{name}"'
            )
    refuse_stdin_twice(flags.prompt, *names)
    question = ONE_PICTURE if len(names) == 1 else SEVERAL_PICTURES
    if flags.prompt is not None:
        question = read_text(flags.prompt)
    pictures = tuple(picture.image for picture in read_inputs(names))
    flags = with_one_seed(flags)
    layers = flags.layers()
    # These modules also import the library, which a wrong option must not wait for.
    from sensenova_cli.turns.one_shot import answer
    from sensenova_cli.turns.tasks import AnswerTask

    answer(AnswerTask("describe", question, pictures, image_files=tuple(names)), layers, flags)
