"""Groups of utterances: by speaker, or by a column of their corpus."""

from collections.abc import Mapping, Sequence

import numpy as np

from emorec.datasets.utterance import Utterance
from emorec.errors import UserError

FEWEST, MOST = 2, 20  # values of a column that makes groups by itself
OWN = ("speaker", "session")  # columns that are no metadata
QUARTERS = 4


def columns_of(utterances: Sequence[Utterance], asked: Sequence[str] | None) -> dict[str, list[str | None]]:
    """{column: the group of each utterance, `None` where it is unknown}.

    Args:
        utterances: N of them.
        asked: columns; `None` for the speaker, and each column of metadata with 2 to 20 values. Numbers with more
            values are grouped by quarters of the utterances.

    Raises:
        UserError: there is no such column, or it has one value only.
    """
    names = sorted({name for item in utterances for name in item.metadata})
    values = {name: [item.metadata.get(name) for item in utterances] for name in names}
    values |= {name: [getattr(item, name) for item in utterances] for name in OWN}
    counts = {name: len({value for value in column if value is not None}) for name, column in values.items()}
    usable = [name for name, count in counts.items() if count >= FEWEST]
    if asked is None:
        chosen = [name for name in usable if name == "speaker" or (counts[name] <= MOST and name not in OWN)]
        if not chosen:
            raise UserError("card.by: expected a speaker or a column with 2 to 20 values, the corpus has none")
    else:
        chosen = list(dict.fromkeys(asked))
        wrong = [name for name in chosen if name not in usable]
        if wrong:
            raise UserError(f"card.by: expected columns with several values, of {sorted(usable)}, got {wrong}")
    return {
        name: _groups(values[name], of_numbers=name not in OWN)
        for name in sorted(chosen, key=lambda name: name == "speaker")
    }


def _groups(column: Sequence[str | int | float | None], *, of_numbers: bool) -> list[str | None]:
    numbers = _as_numbers(column) if of_numbers else None
    if numbers is None or len(set(numbers.values())) <= MOST:
        return [None if value is None else str(value) for value in column]
    borders = np.quantile(sorted(numbers.values()), np.linspace(0, 1, QUARTERS + 1)[1:-1])
    edges = [min(numbers.values()), *borders.tolist(), max(numbers.values())]

    def name(number: float) -> str:
        index = int(np.searchsorted(borders, number, side="left"))
        above = "above " if index else ""
        return f"{above}{edges[index]:g} to {edges[index + 1]:g}"

    return [name(numbers[row]) if row in numbers else None for row in range(len(column))]


def _as_numbers(column: Sequence[str | int | float | None]) -> Mapping[int, float] | None:
    """{row: number} of a column that holds nothing but numbers, else `None`."""
    known = {row: value for row, value in enumerate(column) if value is not None}
    try:
        numbers = {row: float(value) for row, value in known.items()}
    except ValueError:
        return None
    return numbers if all(np.isfinite(list(numbers.values()))) else None
