"""What each rank has of its own is in a saved state, and goes back to it."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed, nn

from emorec.models.emotion_model import EmotionModel
from tests.conftest import run_ranks
from tests.models.test_emotion_model import make_model

RANKS = 2


def own_model(rank: int) -> EmotionModel:
    """A model in which a rank has seen values of its own."""
    model = make_model()
    model.encoder["audio"] = nn.BatchNorm1d(3)
    model.encoder["audio"].running_mean.fill_(rank + 0.1)
    model._train_losses = {"train/loss": [torch.tensor(float(rank))]}
    return model


def work(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    model = own_model(rank)
    state: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(state)
    if rank == 0:  # which writes the file
        torch.save(state, Path(folder) / "state.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_statistics_of_batches_and_losses_of_each_rank_are_restored(tmp_path: Path) -> None:
    run_ranks(work, str(tmp_path), ranks=RANKS)
    for rank in range(RANKS):
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        model = own_model(0)
        model._trainer = SimpleNamespace(global_rank=rank)  # type: ignore[assignment]
        model.on_load_checkpoint(state)
        model.load_state_dict(state["state_dict"])
        expected = own_model(rank)
        assert torch.equal(model.encoder["audio"].running_mean, expected.encoder["audio"].running_mean)
        assert model._train_losses == expected._train_losses
