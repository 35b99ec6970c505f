"""A loss of a lab's own, for sweeps some of whose jobs fail."""

import os
import signal
from typing import Any

from torch import Tensor

from emorec.batch import Batch, ModelOutput
from emorec.losses.cross_entropy import CrossEntropy


class FaultyCrossEntropy(CrossEntropy):
    """Cross-entropy that fails as `fault` says: "raise" or "kill"; any other word does no harm."""

    def __init__(self, *, fault: str, **others: Any) -> None:
        super().__init__(**others)
        self.fault = fault

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        if self.fault == "raise":
            raise ValueError("boom")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(output, batch)
