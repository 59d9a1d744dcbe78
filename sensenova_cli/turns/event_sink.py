"""The sink that prints every event as a JSON line on stdout (`--events`)."""

from collections.abc import Sequence
from typing import Any

from model import Event, Picture, pack
from sensenova_cli.render.json import print_json
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.run_turn import Outcome, Sink
from sensenova_cli.turns.tasks import AnswerTask


class EventSink(Sink):
    """Prints every event in the wire form of `model.wire`, with the number of its item. The line of a picture has the
    path of its file instead of its bytes. A line `begin` and a line `end` enclose each item.

    Args:
        files: the sink that writes the pictures, which comes before this one; None if there are none.
        turns: all items of the run; empty for a run of one.
    """

    def __init__(self, files: Sink | None, turns: Sequence[Turn] = ()) -> None:
        self._files = files
        self._count = max(1, len(turns))
        self._numbers = {turn.first_index: number for number, turn in enumerate(turns)}
        self._item = 0

    def begin(self, turn: Turn) -> None:
        """Print the line `begin`."""
        super().begin(turn)
        self._item = self._numbers.get(turn.first_index, 0)
        settings = {} if isinstance(turn.task, AnswerTask) else {"seed": turn.settings.seed}
        self._print("begin", {"items": self._count, "task": turn.task.kind, "prompt": turn.prompt, **settings})

    def take(self, event: Event) -> None:
        """Print an event."""
        content = pack(event).content
        name = str(content.pop("event"))
        if isinstance(event, Picture):
            written: Sequence[Any] = self._files.files if self._files is not None else ()
            content["image"] = {"path": str(written[-1])} if written else None
        self._print(name, content)

    def end(self, outcome: Outcome) -> None:
        """Print the line `end`."""
        seconds = round(outcome.seconds, 3)
        self._print("end", {"status": outcome.status, "reason": outcome.reason, "seconds": seconds})

    def _print(self, name: str, content: dict[str, Any]) -> None:
        print_json({"event": name, "item": self._item, **content})
