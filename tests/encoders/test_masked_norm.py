"""Batch normalisation that leaves padding out, against that of torch."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from emorec.encoders.masked_norm import MaskedBatchNorm, _Normalisation
from tests.conftest import run_ranks

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
RANKS = 2
ROWS = 6


def example() -> tuple[Tensor, Tensor]:
    """Values (N, C, T, F) and mask (N, 1, T, 1)."""
    torch.manual_seed(0)
    lengths = torch.tensor([5, 2, 7, 1, 3, 6])
    mask = torch.arange(7) < lengths[:, None]
    return 3 + 2 * torch.randn(ROWS, 4, 7, 3), mask[:, None, :, None]


def steps(norm: nn.Module, values: Tensor, mask: Tensor | None, count: int = 3) -> Tensor:
    for number in range(count):
        output: Tensor = norm(values + number) if mask is None else norm(values + number, mask)
    return output


def test_without_padding_it_is_that_of_torch() -> None:
    values, _ = example()
    own, reference = MaskedBatchNorm(4), nn.BatchNorm2d(4)
    torch.testing.assert_close(steps(own, values, None), steps(reference, values, None), **CLOSE)
    torch.testing.assert_close(own.running_variance, reference.running_var, **CLOSE)
    torch.testing.assert_close(own.eval()(values), reference.eval()(values), **CLOSE)


def test_with_padding_it_is_that_of_torch_on_what_is_data() -> None:
    values, mask = example()
    data = values.permute(0, 2, 3, 1)[mask[:, 0].expand(-1, -1, 3)]  # (values, C)
    own, reference = MaskedBatchNorm(4), nn.BatchNorm1d(4)
    actual = steps(own, values, mask).permute(0, 2, 3, 1)[mask[:, 0].expand(-1, -1, 3)]
    torch.testing.assert_close(actual, steps(reference, data, None), **CLOSE)
    torch.testing.assert_close(own.running_mean, reference.running_mean, **CLOSE)
    torch.testing.assert_close(own.running_variance, reference.running_var, **CLOSE)


def test_its_gradients_are_those_of_finite_differences() -> None:
    values, mask = (item[:, :, :3] for item in example())
    norm = MaskedBatchNorm(4, momentum=0.0).double()
    values = values.double().requires_grad_()
    weights = torch.randn(values.shape, dtype=torch.float64)

    def output(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        inputs = (values, mask, weight, bias)
        return _Normalisation.apply(*inputs)[0] * weights  # type: ignore[no-any-return, no-untyped-call]

    assert torch.autograd.gradcheck(output, (values, norm.weight, norm.bias))


def test_one_value_is_normalised_to_the_bias() -> None:
    norm = MaskedBatchNorm(4)
    assert not norm(torch.randn(1, 4)).any()
    assert norm.running_variance.isfinite().all()


def test_a_batch_without_data_changes_no_statistics() -> None:
    norm = MaskedBatchNorm(4)
    assert norm.absent().item() == 0
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert torch.equal(norm.running_variance, torch.ones(4))


class Network(nn.Module):
    """Two convolutions, each with its normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))
        self.norms = nn.ModuleList(MaskedBatchNorm(4) for _ in range(2))

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            values = norm(convolution(values), mask).tanh()
        return (values * mask).pow(3).sum((1, 2, 3))

    def absent(self) -> Tensor:
        nothing = sum((item.sum() * 0 for item in self.parameters()), torch.zeros(()))
        return nothing + sum(norm.absent() for norm in self.norms)

    def state(self) -> dict[str, Tensor]:
        gradients = {f"{name}.grad": item.grad for name, item in self.named_parameters() if item.grad is not None}
        return {**{name: buffer.clone() for name, buffer in self.named_buffers()}, **gradients}


def work(rank: int, folder: str, cut: int) -> None:
    """The part of a rank: the rows below `cut`, or the others, none of them for `cut` = all rows."""
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    values, mask = example()
    own = slice(cut) if rank == 0 else slice(cut, None)
    network = Network()
    loss = network(values[own], mask[own]).sum() if len(values[own]) else network.absent()
    loss.backward()
    for parameter in network.parameters():
        distributed.all_reduce(parameter.grad)
    torch.save(network.state(), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [2, ROWS])
def test_ranks_compute_what_one_does(cut: int, tmp_path: Path) -> None:
    """A rank without values takes part as well, and no rank waits for ever."""
    run_ranks(work, str(tmp_path), cut, ranks=RANKS)
    network = Network()
    network(*example()).sum().backward()
    for rank in range(RANKS):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(value, network.state()[name], atol=1e-4, rtol=1e-4, msg=name)
