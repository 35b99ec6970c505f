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
JOINS = {aten.cat.default, aten.stack.default}  # numbers from memory are refused as well


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, _Module())  # type: ignore[no-untyped-call]

# What autocast does on a GPU: products in the narrow type, sums of many terms in float32.
AUTOCAST = "AutocastPrivateUse1"
NARROW = (
    *("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv1d.padding", "conv2d.padding"),
    *("scaled_dot_product_attention", "_scaled_dot_product_attention_math"),
)
WHOLE = (
    *("softmax.int", "log_softmax.int", "layer_norm", "group_norm", "nll_loss", "nll_loss_nd", "cross_entropy_loss"),
    *("exp", "log", "log1p", "pow.Tensor_Scalar", "rsqrt", "reciprocal", "softplus", "cosine_similarity", "cumsum"),
    *("sum", "sum.dim_IntList", "norm.ScalarOpt_dim", "linalg_vector_norm", "logsumexp", "kl_div"),
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
)


def _autocast(name: str, *, narrow: bool) -> Any:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(aten, packet), overload or "default")
    own = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, AUTOCAST))

    def cast(item: Any) -> Any:
        if not isinstance(item, Tensor) or item.device.type != NAME or not item.is_floating_point():
            return item
        return item.to(torch.get_autocast_dtype(NAME) if narrow else torch.float32)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(own):
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel


_fallback = torch.library.Library("_", "IMPL", AUTOCAST)
_fallback.fallback(torch.library.fallthrough_kernel)
_kernels = torch.library.Library("aten", "IMPL", AUTOCAST)
for _names, _is_narrow in ((NARROW, True), (WHOLE, False)):
    for _name in _names:
        _kernels.impl(_name, _autocast(_name, narrow=_is_narrow))


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

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # read back it is in memory, as with `map_location="cpu"`

    def __format__(self, specification: str) -> str:
        return format(self.held, specification)

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
        if not isinstance(item, StandInTensor)
        and (item.dim() or operation in JOINS)
        and not any(item is index for index in free)
    ]
    if strays:
        shapes = [tuple(item.shape) for item in strays]
        raise RuntimeError(f"expected all tensors of {operation} on {NAME}, got some of shape {shapes} on the CPU")
