"""`sensenova edit`: changes pictures as a prompt says."""

from typing import Annotated

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import (
    BATCH_OPTIONS,
    DESKTOP_OPTIONS,
    ENGINE_OPTIONS,
    IMAGE_OPTIONS,
    OUTPUT_OPTIONS,
    PROMPT_OPTIONS,
    RUN_OPTIONS,
    with_options,
)
from sensenova_cli.system.streams import STDIN


@with_options(
    "image",
    "prompt_text",
    "prompt_file",
    "replay_file",
    "trust_record",
    *BATCH_OPTIONS,
    *IMAGE_OPTIONS,
    *PROMPT_OPTIONS,
    *OUTPUT_OPTIONS,
    "force",
    *DESKTOP_OPTIONS,
    "before_after",
    *ENGINE_OPTIONS,
    "enable_cpu_offload",
    *RUN_OPTIONS,
)
def edit(
    flags: Flags,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE... PROMPT",
            help="Picture files, and what to change, in quotes. Without a prompt a pipe is read.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Change pictures as a prompt says, and print the paths of the results.

    Examples
      sensenova edit cat.png "Make it an oil painting"
      sensenova edit a.png b.png "Draw Image-2 in the style of Image-1"
      sensenova edit cat.png "Smile" --img-cfg-scale 2 -o smile.png
      sensenova generate "A cat" -o - | sensenova edit - "Add a hat"
      sensenova edit --from smile.png --steps 20

    Words that are existing files or look like picture files are pictures, as
    with --image; the other word is the prompt. A prompt that is also the name
    of a file goes last, or after -p. Unless a size is given, the result has the
    aspect ratio of the first picture.
    """
    # Imported here because these modules import Pillow, which `--help` does not need.
    from sensenova_cli.inputs.argv import split_pictures
    from sensenova_cli.inputs.expansion import expand_prompts, parse_variables, take_seeds, with_seeds
    from sensenova_cli.inputs.pictures import read_inputs, recorded_inputs
    from sensenova_cli.inputs.prompts import Prompt, given_prompts, piped_prompt, refuse_stdin_twice
    from sensenova_cli.inputs.replay import read_replay

    flags, seeds = take_seeds(flags)
    variables = parse_variables(flags.variables)
    pictures, prompt = split_pictures(
        words or (),
        has_picture=bool(flags.image),
        has_prompt=flags.prompt is not None or flags.prompt_file is not None,
    )
    pictures += flags.image
    refuse_stdin_twice(prompt, flags.prompt, flags.prompt_file, *pictures)
    prompts = given_prompts(prompt, flags.prompt, flags.prompt_file)
    if not prompts and flags.replay_file is None and STDIN not in pictures:
        prompts = piped_prompt()
    prompts = expand_prompts(prompts, variables)
    replay = read_replay(flags.replay_file, "edit") if flags.replay_file is not None else None
    if not prompts and replay is not None:
        prompts = [Prompt(replay.record.prompt)]
    prompts = with_seeds(prompts, seeds)
    if not prompts:
        raise UsageError("there is no prompt", 'say what to change: sensenova edit FILE "Make it blue"')
    inputs = read_inputs(pictures)
    if not inputs and replay is not None and not all(each.images for each in prompts):
        inputs = recorded_inputs(replay.record, replay.file, trusted=flags.trust_record)
    layers = replay.layers(flags) if replay else flags.layers()
    # These modules also import the library, which a wrong option or a missing prompt must not wait for.
    from sensenova_cli.turns.one_shot import make_pictures
    from sensenova_cli.turns.tasks import PictureTask

    tasks = [
        PictureTask(
            "edit",
            each,
            read_inputs(each.images) if each.images else inputs,
            replay=replay,
            width=flags.width,
            height=flags.height,
        )
        for each in prompts
    ]
    sheet = None
    if flags.before_after is not None:
        from sensenova_cli.turns.run_sheets import BeforeAfterSheet

        sheet = BeforeAfterSheet.of(flags, layers.output, tasks)
    make_pictures(tasks, layers, flags, sheet=sheet)
