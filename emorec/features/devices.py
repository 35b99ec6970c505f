"""The GPU of this process: its choice, its float32 precision and its memory."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def own_device() -> str:
    """The GPU of this rank among those that are visible, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within the block a GPU computes float32 without TF32 and with deterministic convolutions.

    Otherwise float32 may be rounded to the 10 bits of TF32: in convolutions by default, in matrix products by the
    environment.
    """
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


def release_memory() -> None:
    """Releases unused memory of the GPU to other processes."""
    gc.collect()
    torch.cuda.empty_cache()
