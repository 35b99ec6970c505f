"""Which cards an evaluation writes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from emorec.annotations import PositiveCount

CARDS = ("robustness", "fairness", "explanation", "model")


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Cards of an evaluation.

    Attributes:
        robustness: what is left of the scores under noise, codecs, dropped frames, typing errors, …
        fairness: scores by speaker, gender and other columns of the corpus.
        explanation: which modality, which time and which words carry decisions.
        model: a model card in the format of Hugging Face.
        limit: the most clips that are read again for the robustness card; `None` for all.
        seed: of the choice of clips, and of what is done to them.
        conditions: of the robustness card, by name or by its first word, such as `noise`; `None` for all.
        by: columns of the fairness card; `None` for the speaker, and each column of the corpus with 2 to 20 values.
        examples: of the explanation card, for each class: so many right ones, and so many wrong ones.
    """

    robustness: bool = False
    fairness: bool = False
    explanation: bool = False
    model: bool = False
    limit: PositiveCount | None = 200
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    conditions: list[str] | None = None
    by: list[str] | None = None
    examples: PositiveCount = 1

    @property
    def chosen(self) -> list[str]:
        """The names of the cards that are written."""
        return [name for name in CARDS if getattr(self, name)]

    def problems(self) -> Iterator[str]:
        for key in ("conditions", "by"):
            if getattr(self, key) == []:
                yield f"{key}: expected at least one, or null, got none"
