"""`lm_head` of a network whose weights lack it: such a network draws and cannot write."""

from collections.abc import Iterable
from typing import NoReturn

from torch import Tensor, nn

from model.errors import RequestError
from model.network.projection import LogitsInterface, QuantizedLinear


class MissingHead(LogitsInterface, nn.Module):
    """The place of `lm_head`. Every use of it is an error."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Raise RequestError."""
        refuse_text()

    def parts(self) -> Iterable[QuantizedLinear]:
        """Raise RequestError."""
        refuse_text()


def refuse_text() -> NoReturn:
    """Raise RequestError for a request that needs `lm_head`."""
    raise RequestError(
        "this file cannot write text: it has no lm_head", "take a file with lm_head, or the original checkpoint"
    )
