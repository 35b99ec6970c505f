"""Lightning's `Trainer` for a run."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from emorec.config.schema import TrainerConfig
from emorec.errors import UserError
from emorec.models.lightning_overhead import NoProfiler
from emorec.training.distributed import cluster_environment
from emorec.training.states import AtomicCheckpointIO

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes matrix products on a GPU deterministic


def make_trainer(settings: TrainerConfig, callbacks: Sequence[lightning.Callback], folder: Path) -> lightning.Trainer:
    """The trainer of a run.

    Args:
        settings: of the config.
        callbacks: in the order in which their hooks are called.
        folder: the run's directory.
    """
    return lightning.Trainer(
        max_epochs=settings.max_epochs,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=_strategy(settings),
        precision=settings.precision,
        gradient_clip_val=settings.gradient_clip,
        accumulate_grad_batches=settings.accumulate,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO(), cluster_environment(settings.world_size)],
        default_root_dir=folder,
        profiler=NoProfiler(),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _strategy(settings: TrainerConfig) -> Any:
    if settings.strategy == "fsdp":
        return ModelParallelStrategy(settings.world_size, tensor_parallel_size=1, save_distributed_checkpoint=False)
    if settings.strategy == "ddp" or settings.world_size > 1:
        # Buffers are statistics of the data, the same on each rank, or what each rank remembers of its own batches.
        # Sending them at each step would hang an evaluation in which ranks have different numbers of batches.
        return DDPStrategy(broadcast_buffers=False, find_unused_parameters=False)
    return "auto"


def check_devices(settings: TrainerConfig) -> None:
    """Raises a `UserError` where this machine cannot train what the config asks for."""
    import torch

    gpus = 0 if settings.accelerator == "cpu" else torch.cuda.device_count()
    if (gpus or settings.accelerator == "gpu") and gpus < settings.devices:
        hint = "; Slurm may have bound one GPU to each task (--gpus-per-task, --gpu-bind): use --gpus-per-node"
        raise UserError(
            f"expected {settings.devices} GPU(s) on this machine (trainer.devices={settings.devices}, "
            f"trainer.accelerator={settings.accelerator}), got {gpus}"
            f"{hint if gpus and 'SLURM_STEP_ID' in os.environ else ''}"
        )
    if gpus and not torch.cuda.is_available():
        raise UserError(
            f"expected a driver for CUDA {torch.version.cuda}, which this torch is built for, got {gpus} GPU(s) that "
            "it cannot use; trainer.accelerator=cpu trains without them"
        )
    if gpus == 0 and settings.precision == "16-mixed":
        raise UserError("expected a GPU for trainer.precision=16-mixed, got none; bf16-mixed works on a CPU")
