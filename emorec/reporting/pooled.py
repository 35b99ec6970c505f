"""What all runs of a group predicted for a split, as figures and lists of utterances need it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.reporting.aggregate import Group
from emorec.runs.stored_predictions import StoredPredictions, read_predictions


@dataclass(frozen=True)
class Pooled:
    """The predictions of a group's runs, one after the other.

    Attributes:
        split: "test", or "val" where a run has not read test.
        runs: for each run.
    """

    split: str
    runs: tuple[StoredPredictions, ...]

    @classmethod
    def of(cls, group: Group) -> "Pooled | None":
        """Those of test, or of validation where a run has none; `None` where a run lacks these too.

        Raises:
            UserError: a table is not readable.
        """
        labels = group.contest.labels if group.contest.kind == "classification" else ()
        found = [read_predictions(run.folder, labels) for run in group.runs]
        for split in ("test", "val"):
            if all(split in predictions for predictions in found):
                return cls(split, tuple(predictions[split] for predictions in found))
        return None

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        return self._joined("target") >= 0 if self.is_classification else np.isfinite(self._joined("target"))

    @property
    def is_classification(self) -> bool:
        return self.runs[0].is_classification

    @cached_property
    def target(self) -> NDArray[Any]:
        """(N,) of utterances with a target."""
        return self._joined("target")[self._known]

    @cached_property
    def predicted(self) -> NDArray[Any]:
        """(N,) of these."""
        return self._joined("predicted")[self._known]

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """(N, C) of these."""
        return self._joined("probabilities")[self._known]

    def _joined(self, name: str) -> NDArray[Any]:
        joined: NDArray[Any] = np.concatenate([getattr(item, name) for item in self.runs])
        return joined
