"""`sensenova generate`: makes pictures from a prompt."""

from typing import Annotated

import typer

from config.task_defaults import EDIT_ONLY
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


@with_options(
    "prompt_text",
    "prompt_file",
    "replay_file",
    "trust_record",
    *BATCH_OPTIONS,
    *(name for name in IMAGE_OPTIONS if name not in EDIT_ONLY),
    *PROMPT_OPTIONS,
    *OUTPUT_OPTIONS,
    "force",
    *DESKTOP_OPTIONS,
    *ENGINE_OPTIONS,
    "enable_cpu_offload",
    *RUN_OPTIONS,
)
def generate(
    flags: Flags,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT...",
            help="What to draw, each prompt in quotes; - or nothing reads a pipe.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make pictures from a prompt, and print their paths.

    Examples
      sensenova generate "A cute cat" --model SenseNova/SenseNova-U1-8B-MoT
      sensenova generate "A cat at dusk" --aspect 16:9 --seed 7 -o cat.png
      sensenova generate "A {red|blue} cat" "A dog" --seed 1..4 -o pets/
      sensenova generate --steps 20 --think -o - < prompt.txt > cat.png
      sensenova generate --prompt-file prompts.txt -o pictures/
      sensenova generate --from cat.png --steps 20

    {red|blue} makes a picture for each alternative, --var color=red,blue one for
    each {color}, and --seed 1..8 or --seed 3,5,9 one for each seed; --seed random
    draws a seed. {{red|blue}} are plain braces.
    """
    from sensenova_cli.inputs.expansion import expand_prompts, parse_variables, take_seeds, with_seeds
    from sensenova_cli.inputs.prompts import Prompt, given_prompts, piped_prompt

    flags, seeds = take_seeds(flags)
    variables = parse_variables(flags.variables)
    prompts = given_prompts(words, flags.prompt, flags.prompt_file)
    if not prompts and flags.replay_file is None:
        prompts = piped_prompt()
    prompts = expand_prompts(prompts, variables)
    replay = None
    if flags.replay_file is not None:
        from sensenova_cli.inputs.replay import read_replay  # imports Pillow

        replay = read_replay(flags.replay_file, "generate")
        prompts = prompts or [Prompt(replay.record.prompt)]
    prompts = with_seeds(prompts, seeds)
    if not prompts:
        raise UsageError("there is no prompt", 'say what to draw: sensenova generate "A cute cat"')
    for each in prompts:
        if each.images:
            raise UsageError(f"{each.place}generate takes no input pictures", "use: sensenova edit --prompt-file …")
    layers = replay.layers(flags) if replay else flags.layers()
    # These modules also import the library, which a wrong option or a missing prompt must not wait for.
    from sensenova_cli.turns.one_shot import make_pictures
    from sensenova_cli.turns.tasks import PictureTask

    tasks = [PictureTask("generate", each, replay=replay, width=flags.width, height=flags.height) for each in prompts]
    make_pictures(tasks, layers, flags)
