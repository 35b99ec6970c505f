"""The GPU of this process: which, how exactly it computes, and what is given back of it."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def own_device() -> str:
    """The GPU of this rank, of several that it sees; the CPU where there is none."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


@contextmanager
def exact_float32() -> Iterator[None]:
    """On a GPU float32 may be rounded to TF32's 10 bits, in convolutions by default and in products by the
    environment, and a convolution may differ from one time to the next: not within this block."""
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


def give_memory_back() -> None:
    """Leaves a GPU's memory to other processes, but for what is still in use."""
    gc.collect()
    torch.cuda.empty_cache()
