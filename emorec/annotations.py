"""Annotations that fields of configs and arguments of components share; `emorec.config.validation` checks them."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(0)]
PositiveCount = Annotated[int, Ge(1)]
NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Probability = Annotated[float, Ge(0), Le(1)]
Share = Annotated[float, Ge(0), Lt(1)]  # of a whole that is never all of it


@dataclass(frozen=True)
class Pattern:
    """Metadata of an annotated `str`: a regular expression for the whole text, and what it stands for in a message."""

    expression: str
    description: str
