"""Memory of the host, from which a GPU copies."""

import torch
from torch import Tensor


def host_memory(count: int, *, page_locked: bool) -> tuple[Tensor, str | None]:
    """So many bytes to read into, and, where page-locked ones are wanted and the host gives none, what a user should
    know about that."""
    if page_locked:
        try:
            return torch.empty(count, dtype=torch.uint8, pin_memory=True), None
        except RuntimeError as error:  # the host's limit on locked memory
            reason = str(error).splitlines()[0]
            note = f"the host gives no page-locked memory, so that weights come more slowly ({reason})"
            return torch.empty(count, dtype=torch.uint8), note
    return torch.empty(count, dtype=torch.uint8), None
