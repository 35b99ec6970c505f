"""Random numbers as a function of a key, without the state of a generator (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), so that they do not depend on batches, workers, ranks or devices."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_STEP = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed number
_MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
_BITS = 24  # of a uniform number: all that float32 holds


def mixed(keys: Tensor) -> Tensor:
    """Spreads int64 keys over all int64 numbers (SplitMix64; Steele et al. 2014, "Fast splittable generators")."""
    value = keys + _STEP
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        value = (value ^ _shifted(value, shift)) * multiplier
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """An unsigned shift to the right of int64 numbers."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def keys_of(names: Sequence[str]) -> Tensor:
    """(N,) an int64 key for each of N names."""
    digests = [hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8] for name in names]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def uniform(keys: Tensor, count: int, *, stream: int) -> Tensor:
    """(N, count) numbers from 0 up to, and without, 1 for keys (N,); other streams give independent numbers.

    The first numbers do not depend on how many are asked for; so it is with the other functions.
    """
    columns = torch.arange(count, device=keys.device)
    mixed_keys = mixed(mixed(keys ^ mixed(torch.tensor(stream, device=keys.device)))[:, None] + columns)  # (N, count)
    return _shifted(mixed_keys, 64 - _BITS).to(torch.float32) / (1 << _BITS)


def normal(keys: Tensor, count: int, *, stream: int) -> Tensor:
    """(N, count) numbers of a standard normal distribution for keys (N,); see `uniform`."""
    pairs = uniform(keys, 2 * count, stream=stream)
    radius = (-2 * (1 - pairs[:, ::2]).log()).sqrt()
    return radius * (2 * torch.pi * pairs[:, 1::2]).cos()


def between(keys: Tensor, interval: tuple[float, float], *, stream: int) -> Tensor:
    """(N,) numbers from an interval [lowest, highest] for keys (N,); see `uniform`."""
    lowest, highest = interval
    return lowest + (highest - lowest) * uniform(keys, 1, stream=stream)[:, 0]


def chance(keys: Tensor, probability: float, *, stream: int) -> Tensor:
    """(N,) true with a probability for keys (N,); see `uniform`."""
    return uniform(keys, 1, stream=stream)[:, 0] < probability


def white_noise(keys: Tensor, count: int, *, stream: int) -> Tensor:
    """(N, count) white noise of mean 0 and variance 1 for keys (N,), evenly distributed: a quarter of `uniform`'s work.

    Each 64-bit number gives four values.
    """
    columns = torch.arange(-(-count // 4), device=keys.device)
    bits = mixed(mixed(keys ^ mixed(torch.tensor(stream, device=keys.device)))[:, None] + columns)
    values = bits.view(torch.int16)[:, :count].to(torch.float32) + 0.5  # from -2^15 to 2^15
    return values * (12**0.5 / (1 << 16))
