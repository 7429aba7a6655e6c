"""What an exception says of memory and devices."""

from __future__ import annotations

import errno

import torch

# in errors that have no class of their own: the CPU's, those of CUDA's driver and runtime, cuBLAS and cuDNN
OF_MEMORY = ("DefaultCPUAllocator: can't allocate", "out of memory", "_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is a lack of device or system memory."""
    if error is None:
        return False
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in OF_MEMORY)
    here = isinstance(error, torch.OutOfMemoryError | MemoryError) or said
    return here or (isinstance(error, OSError) and error.errno == errno.ENOMEM) or out_of_memory(error.__cause__)


def device_lost(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is a GPU failure other than a lack of memory."""
    if error is None or out_of_memory(error):
        return False
    here = isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
    return here or device_lost(error.__cause__)
