"""Callbacks that cost a training step nothing."""

from lightning.pytorch.callbacks import Callback, Checkpoint

_WITHIN_STEPS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_validation_batch_start", "on_validation_batch_end"),
)


class EpochCallback(Checkpoint):
    """A callback of which only the hooks that it defines are called.

    Lightning calls each hook of each callback, several of them at every step, unless the attribute can not be called.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in _WITHIN_STEPS:
            if getattr(cls, name) is getattr(Callback, name):
                setattr(cls, name, None)
