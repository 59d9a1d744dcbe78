"""`sensenova chat`: answers one message, or starts a conversation in a terminal."""

import sys
from typing import Annotated

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import (
    ENGINE_OPTIONS,
    RUN_OPTIONS,
    TEXT_OPTIONS,
    with_options,
)
from sensenova_cli.system.streams import STDIN


@with_options(
    "image", "prompt_text", *TEXT_OPTIONS, "log", "notify", "copy", *ENGINE_OPTIONS, "enable_cpu_offload", *RUN_OPTIONS
)
def chat(
    flags: Flags,
    message: Annotated[
        str | None,
        typer.Argument(
            metavar="MESSAGE", help="The message, in quotes; - or nothing reads a pipe.", show_default=False
        ),
    ] = None,
    system: Annotated[
        str,
        typer.Option(
            "--system",
            help="System message: how to answer.",
            metavar="TEXT",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Send a message to the model, and print its answer. Without a message, start a conversation.

    Examples
      sensenova chat "What is the capital of France?"
      sensenova chat < letter.txt --system "Answer in one sentence."
      sensenova chat "Write a haiku" --do-sample --temperature 0.6 --top-p 0.95
      sensenova chat --image cat.png "Write a story about this animal"
      sensenova chat
    """
    # Imported here because these modules import Pillow, which `--help` does not need.
    from sensenova_cli.inputs.expansion import with_one_seed
    from sensenova_cli.inputs.pictures import read_inputs
    from sensenova_cli.inputs.prompts import given_prompts, piped_prompt, refuse_stdin_twice

    refuse_stdin_twice(message, flags.prompt, *flags.image)
    prompts = given_prompts(message, flags.prompt, None)
    if not prompts and sys.stdin.isatty() and not flags.json:
        from sensenova_cli.commands.repl import start_session

        if flags.copy:
            raise UsageError("--copy needs a message", "in a conversation, copy an answer with /copy answer")
        start_session(flags, "chat", system=system, images=flags.image)
        return
    if not prompts and STDIN not in flags.image:
        prompts = piped_prompt()
    if not prompts:
        raise UsageError("there is no message", 'add one: sensenova chat "Hello"')
    images = tuple(picture.image for picture in read_inputs(flags.image))
    flags = with_one_seed(flags)
    layers = flags.layers()
    # These modules also import the library, which a wrong option must not wait for.
    from model import Conversation
    from sensenova_cli.turns.one_shot import answer
    from sensenova_cli.turns.tasks import AnswerTask

    task = AnswerTask("chat", prompts[0].text, images, Conversation(system=system), image_files=tuple(flags.image))
    answer(task, layers, flags)
