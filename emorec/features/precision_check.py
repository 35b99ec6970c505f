"""A self-check for encoders that compute in a narrow precision.

On some devices a library returns wrong results in a narrow precision without an error. An example is bfloat16 on CPUs
with AMX, where oneDNN computes grouped convolutions that are wrong by 100 %.
"""

from typing import Any

import torch
from torch import Tensor

from emorec.encoders.encoder import Encoder
from emorec.errors import UserError

# Rounding to bfloat16 (a relative error of up to 0.4 % per operation) adds up to about 1 % in models of 24 layers, and
# to a few percent at worst. A wrong positional convolution changes even the mean over time of a wav2vec 2.0 model by
# 14 to 22 %, and the features of small models by 60 % and more.
LARGEST_DEVIATION = 0.1


def relative_deviation(narrow: Tensor, exact: Tensor, layers: int) -> float:
    """The largest relative L2 error over the layers of features (T, L · D); not finite where `narrow` is not."""
    pairs = zip(narrow.double().chunk(layers, dim=1), exact.double().chunk(layers, dim=1), strict=True)
    errors = torch.stack([(own - reference).norm() / reference.norm() for own, reference in pairs])
    return float(errors.max())


class PrecisionCheck:
    """Compares the features of one utterance with those computed in float32, before any features are stored.

    The encoder is loaded and on `device`; one that computes in float32 is not checked.
    """

    def __init__(self, encoder: Encoder, device: str) -> None:
        self.encoder, self.device = encoder, device
        self._pending = encoder.precision != "float32"

    def compare(self, item: Any, features: Tensor, name: str) -> None:
        """Checks the first utterance that it is called with, and its features (T, L · D); later calls do nothing.

        An utterance without finite and nonzero features in float32 is not conclusive: the next one is checked.

        Raises:
            UserError: the features deviate from those in float32.
        """
        if not self._pending:
            return
        encoder = self.encoder
        with encoder.at_float32():
            inputs = encoder.collate([item])
            reference, mask = encoder.encode({key: value.to(self.device) for key, value in inputs.items()})
        exact = reference.cpu()[0][mask.cpu()[0]]  # (T, L · D)
        layers = len(encoder.layers)
        if len(exact) == 0 or not torch.isfinite(exact).all() or not all(part.any() for part in exact.chunk(layers, 1)):
            return
        self._pending = False
        deviation = relative_deviation(features, exact, layers)
        if not deviation <= LARGEST_DEVIATION:  # NaN fails too
            setting = f"{encoder.where}.precision"
            remedy = f"use {setting}=float32"
            if torch.device(self.device).type == "cpu":
                remedy += ", or set the environment variable ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"
            raise UserError(
                f"expected features in {encoder.precision} that deviate from those in float32 by at most "
                f"{100 * LARGEST_DEVIATION:.0f} %, got {100 * deviation:.0f} % for {name} ({type(encoder).__name__}, "
                f"{setting}={encoder.precision}, device {self.device}); its results are wrong on this device: {remedy}"
            )
