"""The course of a run that makes pictures: which of them exist already, which failed, and how to go on."""

import os
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from config.errors import SenseNovaError
from config.settings import OutputSettings
from config.units import count_of
from model import Card
from sensenova_cli.errors import BatchError, UsageError
from sensenova_cli.inputs.argv import before_dashes
from sensenova_cli.inputs.expansion import RANDOM
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.outputs.picture_names import PictureForm, picture_place
from sensenova_cli.render.errors import describe, print_error
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.claims import Claims
from sensenova_cli.turns.estimate import LONG_SECONDS, estimate_run
from sensenova_cli.turns.existing_pictures import ExistingPictures, find_missing
from sensenova_cli.turns.model_source import ModelOnDemand
from sensenova_cli.turns.run_turn import Course

MAX_COMMAND = 500
"""Longest command that a message repeats, in characters."""
MAX_SHOWN = 60
"""Longest prompt in a message about a failed item, in characters."""
SKIP = "--skip-existing"
PATIENCE = 0.5
"""Seconds between two looks whether another run has ended."""


class Batch(Course):
    """A run that makes pictures.

    Args:
        output: where the pictures go.

    Attributes:
        count: number of pictures of the run, with those that exist already.
        counts: number of pictures of each item.
        existing: number of each picture that exists already, from 0 → its file.
        done: number of pictures that this run has made.
    """

    def __init__(self, flags: Flags, output: OutputSettings, source: ModelOnDemand, view: TurnView) -> None:
        self._flags = flags
        self._output = output
        self._source = source
        self._view = view
        self._failed = 0
        self.count = 0
        self.counts: tuple[int, ...] = ()
        self.existing: Mapping[int, Path] = {}
        self.done = 0
        self._claims: Claims | None = None

    def begin(self, turns: Sequence[Turn], card: Card) -> Sequence[Turn]:
        """With `--skip-existing`, leave out the pictures that exist, and wait for another run that makes some of the
        others. Announce a run that takes long.

        Raises:
            UsageError: the pictures have no files, or no records that could be compared.
            OutputError: the output is not a name of files.
        """
        turns = self._choose(turns, card)
        if not self._flags.dry_run:  # the plan of a dry run has its estimate
            estimate = estimate_run(turns, self._source.settings, card.recommended)
            if estimate.seconds is not None and estimate.seconds > LONG_SECONDS:
                self._view.muted(str(estimate))
        return turns

    def _choose(self, turns: Sequence[Turn], card: Card) -> Sequence[Turn]:
        self.counts = tuple(turn.settings.num_images for turn in turns)
        self.count = sum(self.counts)
        if not self._flags.skip_existing:
            return turns
        if not self._has_files:
            raise UsageError(f"{SKIP} needs files, and -o {self._output.output} makes none", "name a folder or a file")
        if not self._output.metadata:
            raise UsageError(
                f"{SKIP} compares the records in files, and `metadata=false` writes none", "leave one of them out"
            )
        place = picture_place(self._output.output, PictureForm.of(self._output, self._flags.settings))
        existing = ExistingPictures(place)
        missing = find_missing(turns, existing, self._source.loaded, card.recommended)
        if missing.turns and not self._flags.dry_run:
            self._claim(missing.identities, place.folder)
            existing.read_new()  # another run may have made some of them meanwhile
            missing = find_missing(turns, existing, self._source.loaded, card.recommended)
        self.existing = missing.existing
        if self.existing:
            verb = "exists" if len(self.existing) == 1 else "exist"
            self._view.muted(f"{len(self.existing)} of {count_of(self.count, 'picture')} {verb} already")
        return missing.turns

    def _claim(self, pictures: Collection[str], folder: Path) -> None:
        """Claim pictures; wait for another run that is making some of them."""
        self._claims = Claims(folder)
        try:
            if self._claims.take(pictures):
                return
            self._view.notice(f"another run is making some of these pictures in {folder}; this run waits until it ends")
            while not self._claims.take(pictures):
                time.sleep(PATIENCE)
        except (FileExistsError, NotADirectoryError):
            return  # the place is not a folder, and the check of the output says so
        except OSError as error:
            self._view.notice(
                f"pictures in {folder} cannot be claimed ({error.strerror or error}), so another run at the same time "
                "may make the same ones"
            )

    def close(self) -> None:
        """End the claims of the run's pictures."""
        if self._claims is not None:
            self._claims.release()

    def failed(self, turn: Turn, error: Exception) -> None:
        """Report a failed turn.

        Raises:
            BatchError: `--max-errors` turns have failed.
            Exception: the error itself, without `--max-errors`.
        """
        if self._flags.max_errors == 1:
            self.show_way_on()
            raise error
        what, hint = (error.what, error.hint) if isinstance(error, SenseNovaError) else (describe(error), "")
        prompt = turn.prompt if len(turn.prompt) <= MAX_SHOWN else turn.prompt[:MAX_SHOWN] + "…"
        print_error(f"picture {turn.first_index + 1} of {self.count} ({prompt}) failed: {what}", hint)
        self._failed += 1
        if self._failed == self._flags.max_errors:
            raise BatchError(f"the run ended after {count_of(self._failed, 'failure')}; {self._state()}", self._hint())

    def end(self) -> None:
        """End the run.

        Raises:
            BatchError: some turns have failed.
        """
        if self._failed:
            raise BatchError(f"{count_of(self._failed, 'item')} failed; {self._state()}", self._hint())

    def show_way_on(self) -> None:
        """Say how many pictures are done, and how to go on, after the run was interrupted or failed."""
        if self.count > 1:
            self._view.notice("; ".join(filter(None, (self._state(), self._hint()))))

    @property
    def _has_files(self) -> bool:
        return self._output.output not in ("-", os.devnull)

    def _state(self) -> str:
        done = len(self.existing) + self.done
        return f"{done} of {count_of(self.count, 'picture')} {'is' if done == 1 else 'are'} done"

    def _hint(self) -> str:
        """Return the command that goes on; empty if existing pictures cannot be found again."""
        if not (self._has_files and self._output.metadata and self._flags.can_go_on):
            return ""
        return f"to go on: {way_on(self._flags.words, self._flags.drawn_seed)}"


def way_on(words: Sequence[str], drawn_seed: str | None = None) -> str:
    """Return the command that makes the pictures that a run has not made.

    Args:
        words: the run's command line, without the name of the program.
        drawn_seed: the number that was drawn for `--seed random`.
    """
    options = [word for word in before_dashes(words) if word != SKIP]
    if drawn_seed is not None:
        options = _with_seed(options, drawn_seed)
    command = shlex.join(["sensenova", *options, SKIP, *words[len(before_dashes(words)) :]])
    return command if len(command) <= MAX_COMMAND else f"the same command with {SKIP}"


def _with_seed(options: Sequence[str], seed: str) -> list[str]:
    """Return options with the number that was drawn for a random seed."""
    return [
        seed
        if word.lower() == RANDOM and before == "--seed"
        else f"--seed={seed}"
        if word.lower() == f"--seed={RANDOM}"
        else word
        for before, word in zip(["", *options], options, strict=False)
    ]
