"""A loss that raises on one rank, as of a lab's own package."""

import os
from typing import Any

from torch import Tensor

from emorec.batch import Batch, ModelOutput
from emorec.losses.cross_entropy import CrossEntropy


class Crashing(CrossEntropy):
    """Raises in the third step on a rank."""

    def __init__(self, *, rank: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.rank, self.steps = rank, 0

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        self.steps += 1
        if self.steps > 2 and os.environ.get("RANK") == str(self.rank):
            raise RuntimeError("this rank alone")
        return super().forward(output, batch)
