"""`sensenova interleave`: answers a prompt with text and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.task_defaults import INTERLEAVE_DEFAULTS
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import (
    DESKTOP_OPTIONS,
    ENGINE_OPTIONS,
    FILES_ONLY,
    INTERLEAVE_OPTIONS,
    OUTPUT_OPTIONS,
    RUN_OPTIONS,
    with_options,
)

if TYPE_CHECKING:
    from model import Message
    from sensenova_cli.inputs.pictures import InputImage


@with_options(
    "image",
    "prompt_text",
    "replay_file",
    "trust_record",
    *INTERLEAVE_OPTIONS,
    *OUTPUT_OPTIONS,
    "force",
    *DESKTOP_OPTIONS,
    *ENGINE_OPTIONS,
    "enable_cpu_offload",
    *RUN_OPTIONS,
    defaults={**INTERLEAVE_DEFAULTS, "size": "auto"},
    helps=FILES_ONLY,
)
def interleave(
    flags: Flags,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="What the answer is about, in quotes; - reads standard input.", show_default=False
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            help="System message, in place of the one that the model was trained with; '' for none.",
            metavar="TEXT",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(
            "--html",
            help="Write the answer to this file, too, as a page that contains its pictures.",
            metavar="FILE",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Answer a prompt with text and pictures, as a Markdown document.

    Examples
      sensenova interleave "A picture book about a red kite" > story.md
      sensenova interleave "How does a seed grow?" --no-think --max-images 4
      sensenova interleave "Show this in the evening, too" --image house.png
      sensenova interleave "A picture book" -o book/ --html book.html
      sensenova interleave --from book/a-picture-book-43-1.png -o again/

    The model decides where pictures stand, and sees each one before it writes
    on. It thinks first, in text and pictures, unless you give --no-think.
    --from FILE repeats an answer as far as this picture.
    """
    from sensenova_cli.inputs.expansion import with_one_seed
    from sensenova_cli.inputs.prompts import Prompt, given_prompts, refuse_stdin_twice

    flags = with_one_seed(flags)
    refuse_stdin_twice(prompt, flags.prompt, *flags.image)
    prompts = given_prompts(prompt, flags.prompt, None)
    if not prompts and flags.replay_file is None:
        raise UsageError("there is no prompt", 'for example: sensenova interleave "A picture book about a cat"')
    # These modules import Pillow, which a missing prompt must not wait for.
    from sensenova_cli.inputs.pictures import read_inputs, recorded_inputs
    from sensenova_cli.inputs.replay import read_replay

    inputs = read_inputs(flags.image)
    replay = read_replay(flags.replay_file, "interleave") if flags.replay_file is not None else None
    if not prompts and replay is not None:
        prompts = [Prompt(replay.record.prompt)]
    history: tuple[Message, ...] = ()
    earlier: tuple[InputImage, ...] = ()
    if replay is not None and (answer := replay.record.answer) is not None:
        history = answer.history
        if history or not inputs:
            recorded = recorded_inputs(replay.record, replay.file, trusted=flags.trust_record)
            earlier, own = recorded[: answer.earlier_images], recorded[answer.earlier_images :]
            inputs = inputs or own
        system = answer.system if system is None else system
    layers = replay.layers(flags) if replay else flags.layers()
    # These modules also import the library, which a wrong option or a missing prompt must not wait for.
    from model import Conversation
    from sensenova_cli.turns.one_shot import interleave as run
    from sensenova_cli.turns.tasks import InterleaveTask

    task = InterleaveTask(
        prompts[0],
        inputs,
        Conversation(history, tuple(each.image for each in earlier)),
        earlier,
        system,
        replay=replay,
        width=flags.width,
        height=flags.height,
    )
    run(task, layers, flags, Path(html).expanduser() if html is not None else None)
