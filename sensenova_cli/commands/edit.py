"""`sensenova edit`: changes pictures as a prompt says."""

from typing import Annotated

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import (
    ENGINE_OPTIONS,
    IMAGE_OPTIONS,
    OUTPUT_OPTIONS,
    RUN_OPTIONS,
    with_options,
)


@with_options(
    "image",
    "prompt_text",
    "prompt_file",
    "replay_file",
    "trust_record",
    *IMAGE_OPTIONS,
    *OUTPUT_OPTIONS,
    "force",
    *ENGINE_OPTIONS,
    "enable_cpu_offload",
    *RUN_OPTIONS,
)
def edit(
    flags: Flags,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="What to change, in quotes; - reads standard input.", show_default=False),
    ] = None,
) -> None:
    """Change pictures as a prompt says, and print the paths of the results.

    [bold]Examples[/bold]
      sensenova edit --image cat.png "Make it an oil painting"
      sensenova edit --image a.png b.png "Draw Image-2 in the style of Image-1"
      sensenova edit --image cat.png "Smile" --img-cfg-scale 2 -o smile.png
      sensenova generate "A cat" -o - | sensenova edit --image - "Add a hat"
      sensenova edit --from smile.png --num-steps 20

    Unless a size is given, the result has the aspect ratio of the first
    picture. After --image FILE, more words are pictures if they are existing
    files or look like picture files; the first other word is the prompt.
    """
    # Imported here because these modules import Pillow, which `--help` does not need.
    from sensenova_cli.inputs.pictures import read_inputs, recorded_inputs
    from sensenova_cli.inputs.prompts import Prompt, given_prompts, refuse_stdin_twice
    from sensenova_cli.inputs.replay import read_replay

    refuse_stdin_twice(prompt, flags.prompt, flags.prompt_file, *flags.image)
    prompts = given_prompts(prompt, flags.prompt, flags.prompt_file)
    replay = read_replay(flags.replay_file, "edit") if flags.replay_file is not None else None
    if not prompts and replay is not None:
        prompts = [Prompt(replay.record.prompt)]
    if not prompts:
        raise UsageError("there is no prompt", 'say what to change: sensenova edit --image FILE "Make it blue"')
    inputs = read_inputs(flags.image)
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
    make_pictures(tasks, layers, flags)
