"""Errors for the user, with a message and a hint."""

from typing import Self


class SenseNovaError(Exception):
    """An error with a message for the user.

    Attributes:
        what: a sentence, or a short list, that names the problem and its place.
        hint: a suggestion what to type or change; empty if there is none.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what if not hint else f"{what}\n{hint}")
        self.what = what
        self.hint = hint

    def fresh_copy(self) -> Self:
        """Return a copy without traceback, to raise a stored error again. A traceback keeps its frames' variables
        alive."""
        return type(self)(self.what, self.hint)


class SettingsError(SenseNovaError):
    """A setting with an unknown name, a wrong type or a value out of bounds, or a profile that cannot be read."""
