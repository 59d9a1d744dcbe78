"""Import of cache-dit, the optional library of the step cache."""

import importlib.util
from typing import Any

from model.errors import RequestError


def require_cache_library() -> None:
    """Check that cache-dit is installed, without importing it.

    Raises:
        RequestError: it is not installed.
    """
    if importlib.util.find_spec("cache_dit") is None:
        raise RequestError(
            "`cache` needs the library cache-dit, which is not installed",
            "in the checkout, run: pip install '.[cache]' (or use `cache=off`)",
        )


def import_cache_library() -> Any:
    """Import cache-dit's `caching.cache_contexts`. It imports PyTorch and all of diffusers, which takes 2 s.

    Raises:
        RequestError: the library is not installed or cannot be imported.
    """
    require_cache_library()
    try:
        from cache_dit.caching import cache_contexts
    except Exception as error:  # any error in the hundreds of modules that it imports
        raise RequestError(
            f"the library cache-dit cannot be imported: {type(error).__name__}: {error}",
            "in the checkout, run: pip install -U '.[cache]' (or use `cache=off`)",
        ) from error
    return cache_contexts
