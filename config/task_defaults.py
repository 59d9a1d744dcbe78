"""Defaults that differ for one task, without pydantic, because help shows them."""

from collections.abc import Mapping
from typing import Any

INTERLEAVE_DEFAULTS: Mapping[str, Any] = {"think": True, "max_tokens": 8192}
"""Defaults of interleaved answers that differ from those of other tasks."""
