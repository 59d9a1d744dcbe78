"""`sensenova enhance`: rewrites a prompt in more detail, and prints it."""

from dataclasses import replace
from typing import Annotated

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import COMMON_OPTIONS, ENGINE_OPTIONS, with_options

NO_PROMPT = 'sensenova enhance "A cute cat"'


@with_options("image", "prompt_text", "enhance_with", "enhance_model", *ENGINE_OPTIONS, *COMMON_OPTIONS)
def enhance(
    flags: Flags,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="The prompt, in quotes; - or nothing reads a pipe.", show_default=False),
    ] = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Remove all earlier replies, so that models are asked again.", rich_help_panel="Input"
        ),
    ] = False,
) -> None:
    """Rewrite a prompt in more detail, and print it, without drawing it.

    Examples
      sensenova enhance "A poster about bees" --model u1.5-8b
      sensenova enhance "A poster about bees" --enhance-with http://localhost:11434/v1
      sensenova enhance "Make it winter" --image garden.png --model u1.5-8b
      sensenova enhance "A cat" | sensenova generate -
      sensenova enhance --forget

    With --image the prompt is the instruction of an edit. `sensenova generate --enhance` rewrites and draws a prompt.
    The key of an endpoint is in the variable SENSENOVA_ENHANCE_KEY.
    """
    from sensenova_cli.inputs.prompts import given_prompts, piped_prompt, refuse_stdin_twice

    refuse_stdin_twice(prompt, flags.prompt, *flags.image)
    prompts = given_prompts(prompt, flags.prompt, None)
    if forget:
        _forget(flags)
        if not prompts:
            return
    prompts = prompts or piped_prompt()
    if not prompts:
        raise UsageError("there is no prompt", NO_PROMPT)
    layers = replace(flags, settings={**flags.settings, "enhance": True}).layers()
    # These modules also import the library, which a wrong option or a missing prompt must not wait for.
    from sensenova_cli.inputs.pictures import read_inputs
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.system.interrupts import SignalStop
    from sensenova_cli.system.unicode import for_terminal
    from sensenova_cli.turns.build_request import Previews, build_turn
    from sensenova_cli.turns.enhancement import Enhancement
    from sensenova_cli.turns.model_source import ModelOnDemand
    from sensenova_cli.turns.tasks import PictureTask

    inputs = read_inputs(flags.image)
    view, source = TurnView(quiet=flags.quiet), ModelOnDemand(layers.load)
    card = source.card(view)
    task = PictureTask("edit" if inputs else "generate", prompts[0], inputs)
    turn = build_turn(task, layers, card.recommended, Previews())
    enhancement = Enhancement(card, source, view, SignalStop(), edit=lambda text: text)
    turn = enhancement.before_loading(turn)
    if questions := enhancement.questions([turn]):
        turn = enhancement.rewrite(turn, source.open(questions, view))
    if flags.json:
        from sensenova_cli.render.json import print_json

        author = turn.task.enhanced_by if isinstance(turn.task, PictureTask) else None
        print_json({"prompt": turn.prompt, "original_prompt": prompts[0].text, "enhanced_by": author})
    else:
        print(for_terminal(turn.prompt), flush=True)


def _forget(flags: Flags) -> None:
    """Remove all earlier replies, and say how many there were."""
    from config.units import count_of
    from sensenova_cli.enhance.cache import forget_replies
    from sensenova_cli.render.turn_view import TurnView

    TurnView(quiet=flags.quiet).muted(f"removed {count_of(forget_replies(), 'rewritten prompt')}")
