"""The error every layer of the program raises when the user has to do something about it."""

from typing import Self


class SenseNovaError(Exception):
    """A failure with a message for the user.

    Attributes:
        what: one sentence (or a short list) saying what is wrong and where.
        hint: what to type or change next; empty where nothing can be suggested.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what if not hint else f"{what}\n{hint}")
        self.what = what
        self.hint = hint

    def fresh_copy(self) -> Self:
        """The same error anew, for one that is kept to be raised more than once: its traceback would keep what its
        frames hold."""
        return type(self)(self.what, self.hint)


class SettingsError(SenseNovaError):
    """A setting has an unknown name, a wrong type or a value out of bounds, or a profile cannot be read."""
