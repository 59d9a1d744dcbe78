"""Where cache-dit comes from, the optional library that decides which steps of a picture reuse an earlier one's."""

import importlib.util
from typing import Any

from model.errors import RequestError


def require_cache_library() -> None:
    """Look whether cache-dit is installed, without importing it.

    Raises:
        RequestError: it is not.
    """
    if importlib.util.find_spec("cache_dit") is None:
        raise RequestError(
            "`cache` needs the library cache-dit, which is not installed",
            "install it with: pip install 'sensenova[cache]' (or take `cache=off`)",
        )


def cache_library() -> Any:
    """The library's `caching.cache_contexts`, imported; it brings PyTorch and all of diffusers, which takes 2 s.

    Raises:
        RequestError: it is not installed, or cannot be imported.
    """
    require_cache_library()
    try:
        from cache_dit.caching import cache_contexts
    except Exception as error:  # whatever goes wrong in the hundreds of modules that it brings
        raise RequestError(
            f"the library cache-dit cannot be imported: {type(error).__name__}: {error}",
            "install it anew with: pip install -U 'sensenova[cache]' (or take `cache=off`)",
        ) from error
    return cache_contexts
