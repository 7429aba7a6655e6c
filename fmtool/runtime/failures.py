"""What an exception says of memory and devices."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is a lack of device or system memory."""
    if error is None:
        return False
    # torch has no error class for the CPU
    here = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator: can't allocate" in str(
        error
    )
    return here or out_of_memory(error.__cause__)


def device_lost(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is a GPU failure."""
    if error is None:
        return False
    here = isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
    return here or device_lost(error.__cause__)
