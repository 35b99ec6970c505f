"""Whether the report's intervals and tests are what they say, in simulated studies."""

from tests.benchmarks.figure import Figure
from tests.reporting.studies import (
    DIALOGUES,
    ONE_FOLD,
    RAVDESS,
    SEVERAL_FOLDS,
    Design,
    share_that_covers,
    share_that_rejects,
)

DESIGNS: dict[str, Design] = {
    "24_speakers": RAVDESS,
    "24_speakers_5_folds": SEVERAL_FOLDS,
    "5_speakers": ONE_FOLD,
    "280_dialogues": DIALOGUES,
}


def intervals_and_tests(*, studies: int = 500, draws: int = 2000) -> list[Figure]:
    """How often the 95 % interval of the UAR holds the true value, and equally good systems differ significantly."""
    figures = []
    for name, design in DESIGNS.items():
        covers = share_that_covers(design, studies=studies, draws=draws)
        rejects = share_that_rejects(design, studies=studies, draws=draws)
        note = f"{covers:.1%} of {studies} intervals hold the true value"
        figures.append(Figure(f"coverage_{name}", abs(covers - 0.95), "off 0.95", "<= 0.02", note))
        note = f"of {studies} studies of equally good systems have p < 0.05"
        figures.append(Figure(f"positives_{name}", rejects, "ratio", "<= 0.06", note))
    return figures
