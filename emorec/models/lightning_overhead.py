"""Work-arounds of what Lightning does at every training step, for small heads whose step takes about a millisecond.

Each says what it saves. None of them changes a result.
"""

import inspect
import os
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.profilers import Profiler

# Lightning sets it to "1" for programs that fork. torch would then load NVML again at every step.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

_HOOKS_OF_STEPS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_validation_batch_start", "on_validation_batch_end"),
)


class FastModule(lightning.LightningModule):
    """A module whose batches know how to move themselves (`batch.to(device)`) and that has no hooks around it."""

    def __init_subclass__(cls) -> None:
        # Lightning reads the names of `training_step`'s arguments at every step; a stored signature is read at once.
        super().__init_subclass__()
        if "training_step" in vars(cls):
            cls.training_step.__signature__ = inspect.signature(cls.training_step)  # type: ignore[attr-defined]

    # Lightning looks for overridden hooks around the move of each batch: about a tenth of the loop's own time.
    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        return batch

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        return batch.to(device or self.device)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook here dozens of times a step; torch would look whether it is a parameter.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


class EpochCallback(Checkpoint):
    """A callback of which only the hooks that it defines are called.

    Lightning calls each hook of each callback, several of them at every step, unless the attribute is not callable.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in _HOOKS_OF_STEPS:
            if getattr(cls, name) is getattr(Callback, name):
                setattr(cls, name, None)


class NoProfiler(Profiler):
    """Measures nothing: Lightning enters a profiler's context dozens of times a step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._nothing

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass
