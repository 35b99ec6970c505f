"""`emorec evaluate`: applies a finished run to a split of its corpus, or to another corpus."""

import re
from collections.abc import Sequence

from emorec.config.composition import compose_once
from emorec.config.keys import LOCATIONS
from emorec.config.schema import EvaluateConfig
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging

MODEL = re.compile(r"encoder\.(text|audio|video)\.model=['\"]?(.*?)['\"]?", re.DOTALL)
LOCATION = re.compile(rf"dataset\.({'|'.join(LOCATIONS)})=['\"]?(.*?)['\"]?", re.DOTALL)
SIZE = "largest_table"  # the location that is a number; paths are texts, also one such as 2024


def main(arguments: Sequence[str]) -> int:
    """Evaluates, prints the metrics and keeps them under the run's `evaluations/`."""
    words, locations = list(arguments), {}
    if not any(word.startswith("dataset=") for word in words):  # else they are keys of the corpus that is named
        given = {match[1]: match[2] for word in words if (match := LOCATION.fullmatch(word))}
        locations = {key: int(text) if key == SIZE and text.isdecimal() else text for key, text in given.items()}
        words = [word for word in words if not LOCATION.fullmatch(word)]
    models = {match[1]: match[2] for word in words if (match := MODEL.fullmatch(word))}
    words = [word for word in words if not MODEL.fullmatch(word)]
    composed = compose_once("evaluate", EvaluateConfig, words)
    if composed is None:
        return 0
    start_logging()
    with quick_imports():
        cards = composed.config.card
        from emorec.training.evaluation import evaluate_run

    evaluation = evaluate_run(composed, locations, models)
    print(evaluation.text)
    if cards.chosen:
        from emorec.cards.writing import write_cards

        for text in write_cards(evaluation, cards):
            print(text)
    return 0
