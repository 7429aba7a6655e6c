"""What exceptions say of memory and devices."""

from __future__ import annotations

import errno

import pytest
import torch

from fmtool.errors import ModelError
from fmtool.runtime.failures import device_lost, out_of_memory


def caused(cause: BaseException) -> Exception:
    """An error of ours that another one led to."""
    try:
        raise ModelError("ours") from cause
    except ModelError as error:
        return error


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True, False),
        (MemoryError(), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True, False),
        (torch.AcceleratorError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True, False),
        (OSError(errno.ENOSPC, "No space left on device"), False, False),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), False, True),
        (RuntimeError("shapes don't match"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_errors_are_known_by_their_class_or_text_also_as_a_cause(error: Exception, memory: bool, lost: bool) -> None:
    for one in (error, caused(error), caused(caused(error))):
        assert (out_of_memory(one), device_lost(one)) == (memory, lost)
    assert not out_of_memory(None) and not device_lost(None)
