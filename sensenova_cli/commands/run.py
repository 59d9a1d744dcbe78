"""`sensenova run`: accepts the arguments of vLLM-Omni's example script `end2end.py`."""

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.declarations import IMAGE, TEXT
from config.sizes import TOKEN_PIXELS, format_size, round_side
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import UNSUPPORTED_OPTIONS, Flags
from sensenova_cli.inputs.options import (
    DESKTOP_OPTIONS,
    ENGINE_OPTIONS,
    IMAGE_OPTIONS,
    OUTPUT_OPTIONS,
    RUN_OPTIONS,
    TEXT_OPTIONS,
    with_options,
)

if TYPE_CHECKING:
    from config.sources import Layers
    from sensenova_cli.turns.one_shot import NameTemplate

MODALITIES = ("auto", "text2img", "img2img", "img2text", "text2text")

DEFAULT_PROMPT = "A cute cat sitting on a windowsill, soft natural light"
NAME = "sensenova_u1_output_{index}"


@with_options(
    "prompt_text",
    "image",
    *IMAGE_OPTIONS,
    *TEXT_OPTIONS,
    *OUTPUT_OPTIONS,
    "force",
    *DESKTOP_OPTIONS,
    *ENGINE_OPTIONS,
    "enable_cpu_offload",
    *RUN_OPTIONS,
    *UNSUPPORTED_OPTIONS,
    helps={"output": "Folder of the pictures, by default the current one; or - for stdout."},
)
def run(
    flags: Flags,
    modality: Annotated[
        str,
        typer.Option(
            "--modality",
            help="Kind of task; auto is img2img with --image, else text2img.",
            metavar="|".join(MODALITIES),
            rich_help_panel="Input",
            autocompletion=lambda incomplete: [word for word in MODALITIES if word.startswith(incomplete)],
        ),
    ] = "auto",
) -> None:
    """Drop-in replacement for vLLM-Omni's example script: replace `python end2end.py` with `sensenova run`.

    Examples
      sensenova run --prompt "A cute cat" --think
      sensenova run --prompt "Turn this into an oil painting" --image input.png
      sensenova run --modality img2text --prompt "What is this?" --image a.jpg
      sensenova run --modality text2text --prompt "What is the capital of France?"

    As in that script, --output is a folder, by default the current one, and an
    edit has the model's default size. Without --model, the built-in demo is
    used; the script's model is --model u1-8b.
    Pictures are named sensenova_u1_output_0.png and so on, after the existing
    ones; -f starts at 0 and replaces them. Sides are rounded to multiples of 32.
    """
    # Imported here because these modules import Pillow, which `--help` does not need.
    from sensenova_cli.inputs.expansion import with_one_seed
    from sensenova_cli.inputs.pictures import read_inputs
    from sensenova_cli.inputs.prompts import Prompt, read_text, refuse_stdin_twice
    from sensenova_cli.turns.one_shot import answer, make_pictures
    from sensenova_cli.turns.tasks import AnswerTask, PictureTask

    if modality not in MODALITIES:
        from config.validation import near_miss

        meant = near_miss(modality, MODALITIES)
        hint = f"did you mean {meant}?" if meant else f"it is one of {', '.join(MODALITIES)}"
        raise UsageError(f"--modality {modality} is unknown", hint)
    if modality == "auto":
        modality = "img2img" if flags.image else "text2img"
    if modality.startswith("img2") and not flags.image:
        raise UsageError(f"--modality {modality} needs a picture", "add --image FILE")
    if modality.startswith("text2") and flags.image:
        raise UsageError(
            f"--modality {modality} takes no --image", f"use --modality {modality.replace('text2', 'img2')}"
        )
    if modality.endswith("2text") and flags.open:
        raise UsageError(f"--open shows pictures, and --modality {modality} makes none", "leave --open out")
    refuse_stdin_twice(flags.prompt, *flags.image)
    flags = _with_rounded_sides(flags)
    flags = with_one_seed(flags)
    layers = flags.layers()
    prompt = DEFAULT_PROMPT if flags.prompt is None else read_text(flags.prompt)
    inputs = read_inputs(flags.image)
    _note_unused_options(flags, TEXT if modality.endswith("2img") else IMAGE, modality)
    if modality.endswith("2text"):
        images = tuple(picture.image for picture in inputs)
        task = AnswerTask("describe" if inputs else "chat", prompt, images, image_files=tuple(flags.image))
        answer(task, layers, flags)
        return
    picture_task = PictureTask(
        "edit" if inputs else "generate",
        Prompt(prompt),
        inputs,
        width=flags.width,
        height=flags.height,
        auto_is_default=True,
    )
    make_pictures([picture_task], layers, flags, _name_template(layers, flags))


def _with_rounded_sides(flags: Flags) -> Flags:
    """Round the typed sides of the picture to the nearest multiples of 32 with a notice, as the script does."""
    from sensenova_cli.render.turn_view import TurnView

    typed = re.fullmatch(r"\s*(\d{1,9})\s*[x×*X]\s*(\d{1,9})\s*", flags.settings.get("size", ""))
    pair = (int(typed[1]), int(typed[2])) if typed else (flags.width, flags.height)
    if any(side is not None and side <= 0 for side in pair):
        return flags  # refused later, with the sides that the user typed
    rounded = tuple(None if side is None else round_side(side) for side in pair)
    for side, near in zip(pair, rounded, strict=True):
        if side != near:
            TurnView(quiet=flags.quiet).notice(f"{side} is rounded to {near}, a multiple of {TOKEN_PIXELS}")
    if rounded[0] is not None and rounded[1] is not None:
        return replace(flags, settings={**flags.settings, "size": format_size((rounded[0], rounded[1]))})
    return replace(flags, width=rounded[0], height=rounded[1])


def _note_unused_options(flags: Flags, unused: Collection[str], modality: str) -> None:
    """Print a notice that names the typed options without an effect: the script accepts all of them in any modality."""
    from sensenova_cli.render.turn_view import TurnView

    output_options = ("enable_cache_dit_summary",) if unused is IMAGE else ()
    names = [name for name in flags.settings if name in (*unused, *output_options) and name != "seed"]
    if names:
        options = ", ".join("--" + name.replace("_", "-") for name in names)
        TurnView(quiet=flags.quiet).notice(f"{options}: no effect with {modality}")


def _name_template(layers: "Layers", flags: Flags) -> "NameTemplate | None":
    """Return the output folder with the script's file names, numbered after the existing pictures; None for stdout."""
    from sensenova_cli.outputs.picture_files import FORMATS
    from sensenova_cli.outputs.picture_names import DEFAULT_ENDINGS
    from sensenova_cli.turns.one_shot import NameTemplate

    output = layers.output.output or "."
    if output == "-":
        return None
    folder = Path(output).expanduser()
    if "output" not in flags.settings and not folder.is_dir() and folder.suffix.lower() in FORMATS:
        # A settings file names pictures for the other commands, too. Only the folder of such a name applies here.
        folder = folder.parent
        if "{" in str(folder):
            raise UsageError(
                f"output = {output!r} in the settings does not name a folder", "give one with --output FOLDER"
            )
    numbers = [
        int(found[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (found := re.fullmatch(r"sensenova_u1_output_(\d+)\.(png|jpg|webp)", path.name))
    ]
    escaped = str(folder).replace("{", "{{").replace("}", "}}")
    name = NAME + DEFAULT_ENDINGS[layers.output.format]
    return NameTemplate(str(Path(escaped) / name), 0 if flags.force else max(numbers, default=-1) + 1)
