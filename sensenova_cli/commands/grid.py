"""`sensenova grid`: a sheet of pictures that differ in one or two things."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.axes import MAX_CELLS, plan_grid
from sensenova_cli.inputs.expansion import take_seeds
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import (
    DESKTOP_OPTIONS,
    ENGINE_OPTIONS,
    IMAGE_OPTIONS,
    OUTPUT_OPTIONS,
    PROMPT_OPTIONS,
    RUN_OPTIONS,
    with_options,
)

if TYPE_CHECKING:
    from sensenova_cli.inputs.replay import PictureKind, Replay

OF_FILES = ("format", "quality", "preview")
"""Settings that have a meaning for a sheet of existing pictures."""


@with_options(
    "vary",
    "files",
    "prompt_text",
    "replay_file",
    "trust_record",
    "image",
    *(name for name in IMAGE_OPTIONS if name != "num_images"),
    *PROMPT_OPTIONS,
    *(name for name in OUTPUT_OPTIONS if name != "output"),
    "sheet",
    "force",
    *DESKTOP_OPTIONS,
    "skip_existing",
    "max_errors",
    *ENGINE_OPTIONS,
    "enable_cpu_offload",
    *RUN_OPTIONS,
)
def grid(
    flags: Flags,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="What to draw, in quotes; - or nothing reads a pipe.", show_default=False
        ),
    ] = None,
) -> None:
    """Draw pictures that differ in one or two things, and a labelled sheet of them.

    Examples
      sensenova grid "A cat" --vary cfg_scale=2,4,6 --vary seed=1..4 -o grid.png
      sensenova grid "A {animal} at dusk" --vary animal=cat,dog,owl
      sensenova grid "A cat" --vary cfg_scale=2..4..0.5 --aspect 16:9
      sensenova grid "Make it {style}" --image cat.png --vary style=gold,ice
      sensenova grid --from cat.png --vary steps=10,20,50
      sensenova grid --files a.png b.png c.png -o grid.png

    The first --vary gives the columns, and the second one the rows. Both name a
    picture setting or a name in the prompt's braces; \\, is a comma in a value.
    The pictures are written beside the sheet, each with its record, so that
    --from makes it again. With --files, existing pictures are put on a sheet,
    and the labels are what differs in their records.
    """
    if flags.files:
        _sheet_of_files(flags, prompt)
        return
    from sensenova_cli.inputs.prompts import Prompt, given_prompts, piped_prompt

    flags, seeds = take_seeds(flags)
    if seeds is not None:
        raise UsageError(f"--seed {seeds.text}: a cell has one seed", f"to vary it: --vary seed={seeds.text}")
    prompts = given_prompts(prompt, flags.prompt, None)
    if not prompts and flags.replay_file is None:
        prompts = piped_prompt()
    replay = _replay(flags)
    if replay is not None:
        prompts = prompts or [Prompt(replay.record.prompt)]
    kind: PictureKind = "edit" if flags.image or (replay is not None and replay.record.task == "edit") else "generate"
    if not prompts:
        raise UsageError("there is no prompt", 'say what to draw: sensenova grid "A cat" --vary seed=1..4')
    plan = plan_grid(flags.vary, prompts[0], kind)
    layers = replay.layers(flags) if replay else flags.layers()
    # These modules import Pillow and the library, which a wrong option or a missing prompt must not wait for.
    from sensenova_cli.inputs.pictures import read_inputs, recorded_inputs
    from sensenova_cli.outputs.picture_names import PictureForm
    from sensenova_cli.turns.grid_files import cell_names, cell_tasks
    from sensenova_cli.turns.one_shot import make_pictures
    from sensenova_cli.turns.run_sheets import GridSheet, Report
    from sensenova_cli.turns.sheet_files import sheet_path

    inputs = read_inputs(flags.image)
    if kind == "edit" and not inputs and replay is not None:
        inputs = recorded_inputs(replay.record, replay.file, trusted=flags.trust_record)
    path = sheet_path(layers.output, flags.sheet, plan.title)
    tasks = cell_tasks(plan, kind, inputs, replay, flags)
    names = cell_names(path, tasks, may_exist=flags.force or flags.skip_existing)
    layers = replace(layers, values={**layers.values, "output": names.template})
    sheet = GridSheet(
        path,
        plan,
        form=PictureForm.of(layers.output, flags.settings),
        force=flags.force,
        report=Report.of(flags),
        preview="off" if flags.quiet or flags.json or flags.events else layers.output.preview,
    )
    make_pictures(tasks, layers, flags, names, sheet)


def _sheet_of_files(flags: Flags, prompt: str | None) -> None:
    """Put existing pictures on a sheet."""
    drawing = [name for name in flags.settings if name not in OF_FILES]
    given = {
        "a prompt": prompt or flags.prompt,
        "--vary": flags.vary,
        "--image": flags.image,
        "--from": flags.replay_file,
        f"--{drawing[0].replace('_', '-') if drawing else ''}": drawing,
    }
    for option, value in given.items():
        if value:
            raise UsageError(f"--files uses existing pictures, and {option} is for new ones", "give one of them")
    if len(flags.files) > MAX_CELLS:
        raise UsageError(f"{len(flags.files):,} pictures are too many for a sheet", f"give at most {MAX_CELLS:,}")
    from sensenova_cli.comparing.arrangement import arrange, read_pictures
    from sensenova_cli.outputs.picture_names import PictureForm
    from sensenova_cli.render.console import print_note, stderr_console
    from sensenova_cli.render.json import print_json
    from sensenova_cli.system.unicode import for_terminal
    from sensenova_cli.turns.run_sheets import show_sheet
    from sensenova_cli.turns.sheet_files import SheetFile, sheet_path

    output = flags.layers().output
    path = sheet_path(output, flags.sheet, "")
    notes: list[str] = []
    file = SheetFile.prepare(path, notes.append, force=flags.force, form=PictureForm.of(output, flags.settings))
    show_on_desktop = _desktop_actions(flags)
    pictures, problems = read_pictures(flags.files)
    sheet = arrange(pictures)
    written, image = file.write(sheet)
    for note in [] if flags.quiet else [*problems, *notes]:
        print_note(stderr_console(), note)
    if flags.json:
        print_json({"task": "grid", "path": str(written), "pictures": list(flags.files)})
    else:
        print(for_terminal(written), flush=True)
        show_sheet("off" if flags.quiet else output.preview, sheet, image)
    show_on_desktop(written)


def _desktop_actions(flags: Flags) -> Callable[[Path], None]:
    """Return a function that opens or copies a sheet as the user asks; errors as for `DesktopActions`."""
    if not (flags.open or flags.copy):
        return lambda written: None
    from sensenova_cli.render.turn_view import TurnView  # imports the display of progress, which other sheets lack
    from sensenova_cli.turns.desktop_actions import DesktopActions

    desktop = DesktopActions(flags, None)

    def show(written: Path) -> None:
        desktop.files.append(written)
        desktop.run(TurnView(quiet=flags.quiet))

    return show


def _replay(flags: Flags) -> "Replay | None":
    """Read the picture of `--from`, which generate or edit has made."""
    if flags.replay_file is None:
        return None
    from sensenova_cli.inputs.replay import read_replay  # imports Pillow
    from sensenova_cli.outputs.picture_files import read_record

    record = read_record(Path(flags.replay_file).expanduser(), flags.replay_file)
    return read_replay(flags.replay_file, "edit" if record is not None and record.task == "edit" else "generate")
