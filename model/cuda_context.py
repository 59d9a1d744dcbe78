"""Create a GPU's CUDA context on a thread while PyTorch is imported: both take seconds.

PyTorch uses a device's primary context, so it finds the context that this module has created. All errors are ignored
here: PyTorch runs into them again and reports them.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from config.settings import LoadSettings

DRIVER = "libcuda.so.1"


@contextmanager
def creating_cuda_context(settings: LoadSettings) -> Iterator[None]:
    """Create the CUDA context of the device that the settings name, while the code inside runs. Wait for it at the end.

    Do nothing for other devices, for several ranks, whose processes create their own contexts, or if PyTorch is
    imported already.
    """
    index = _device_index(settings)
    if index is None or "torch" in sys.modules:
        yield
        return
    # PyTorch sets this, too, but the driver reads it when it is initialized.
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    thread = threading.Thread(target=_create_context, args=(index,), name="CUDA context", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _device_index(settings: LoadSettings) -> int | None:
    """Return the number of the only GPU that the settings may use, or None."""
    if settings.gpus != 0 or settings.tensor_parallel_size * settings.cfg_parallel_size > 1 or "RANK" in os.environ:
        return None
    if not sys.platform.startswith("linux"):
        return None
    if settings.device in ("auto", "cuda"):
        return 0
    kind, _, number = settings.device.partition(":")
    return int(number) if kind == "cuda" else None


def _create_context(index: int) -> None:
    """Create the primary context of a device with the driver's functions, which run without the interpreter lock."""
    try:
        driver = ctypes.CDLL(DRIVER)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), index) == 0:
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    except (OSError, AttributeError):  # there is no driver, or one that is too old
        return
