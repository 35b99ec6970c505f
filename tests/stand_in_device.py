"""A stand-in for a GPU, so that code which mixes devices fails on a machine without one.

Its tensors say that they are on "stand_in" and lie in memory. What a GPU refuses is refused: an operation on tensors of
both devices, but for a number from memory and for indices, and numpy's view of a tensor. Registering a device is for
good, so this belongs in a process of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "stand_in"
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, _Module())  # type: ignore[no-untyped-call]


class StandInTensor(Tensor):
    """A tensor of the device; `held` is where its values are."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> "StandInTensor":
        made: StandInTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{NAME}:0",
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"StandInTensor({self.held!r})"


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, args, kwargs or {})


class _Constructor(TorchFunctionMode):
    """`torch.tensor` asks the device for memory in a way that no mode of operations sees."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        settings = dict(kwargs or {})
        if function is not torch.tensor or settings.get("device") is None:
            return function(*args, **settings)
        device = settings.pop("device")
        return function(*args, **settings).to(device)


@contextmanager
def stand_in_device() -> Iterator[None]:
    """Within it tensors can be made on the device and moved to it and back."""
    with _Operations(), _Constructor():
        yield


def run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation's result, on the device where a GPU would leave it."""
    tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
    on_device = any(isinstance(item, StandInTensor) for item in tensors)
    if operation is aten.copy_.default:
        on_device = isinstance(args[0], StandInTensor)
    elif operation not in MOVES and on_device:
        _require_one_device(operation, args, tensors)
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]).type == NAME
    owners: dict[int, StandInTensor] = {}

    def held(item: Any) -> Any:
        if isinstance(item, StandInTensor):
            owners[id(item.held)] = item
            return item.held
        return torch.device("cpu") if isinstance(item, torch.device) and item.type == NAME else item

    def owned(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        return owners[id(item)] if id(item) in owners else StandInTensor(item)  # what was changed in place stays itself

    held_args, held_kwargs = tree_map(held, (args, kwargs))
    result = operation(*held_args, **held_kwargs)
    return tree_map(owned, result) if on_device else result


def _require_one_device(operation: Any, args: Any, tensors: list[Tensor]) -> None:
    free = tree_leaves(args[1]) if operation in INDEXED else []
    strays = [
        item
        for item in tensors
        if not isinstance(item, StandInTensor) and item.dim() and not any(item is index for index in free)
    ]
    if strays:
        shapes = [tuple(item.shape) for item in strays]
        raise RuntimeError(f"expected all tensors of {operation} on {NAME}, got some of shape {shapes} on the CPU")
