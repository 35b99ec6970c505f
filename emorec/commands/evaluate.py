"""`emorec evaluate`: applies a finished run, or several, to a split of their corpus, or to another corpus."""

import re
from collections.abc import Sequence
from dataclasses import fields, replace

from emorec.config.command_line import parse
from emorec.config.composition import Composed, compose_once, composer, print_with_hydra
from emorec.config.keys import LOCATIONS
from emorec.config.schema import CommandConfig, EvaluateConfig, TrainConfig
from emorec.errors import raise_problems
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging

MODEL = re.compile(r"encoder\.(text|audio|video)\.model=['\"]?(.*?)['\"]?", re.DOTALL)
LOCATION = re.compile(rf"dataset\.({'|'.join(LOCATIONS)})=['\"]?(.*?)['\"]?", re.DOTALL)
SHARED = tuple(item.name for item in fields(CommandConfig))  # keys that the configs of all commands have
SIZE = "largest_table"  # the location that is a number; paths are texts, also one such as 2024


def main(arguments: Sequence[str]) -> int:
    """Evaluates, prints the metrics and keeps them under the run's `evaluations/`; with `matrix` trains as well."""
    if any(word.startswith("matrix=") for word in arguments):
        return _matrix(arguments)
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
        config = composed.config
        from emorec.training.ensemble import evaluate_runs
        from emorec.training.evaluation import evaluate_run

    if config.runs:
        print(evaluate_runs(composed, locations, models))
        return 0
    evaluation = evaluate_run(composed, locations, models)
    print(evaluation.text)
    if config.card.chosen:
        from emorec.cards.writing import write_cards

        for text in write_cards(evaluation, config.card):
            print(text)
    return 0


def _matrix(arguments: Sequence[str]) -> int:
    """Prints the cross-corpus matrix of the config that the other overrides make; returns 0."""
    line = parse("train", arguments)
    (asked,) = (word for word in line.overrides if word.startswith("matrix="))
    words = [word for word in line.overrides if word != asked]
    if line.prints_only:
        return print_with_hydra(replace(line, overrides=words))
    problems = [f"{word}: expected no key of a dataset" for word in words if word.lstrip("+~").startswith("dataset")]
    problems += [f"{word}: expected the config to train" for word in words if word.startswith(("run=", "runs="))]
    problems += ["-m: expected one matrix"] if line.multirun else []
    raise_problems("matrix, whose corpora are named by their YAML files", problems)
    names = [name.strip() for name in asked.partition("=")[2].strip("[]").split(",") if name.strip()]
    own = [word for word in words if word.split("=")[0].split(".")[0] in SHARED]
    start_logging()

    def train_config(name: str) -> Composed[TrainConfig]:
        with composer(line, TrainConfig) as open_composer:
            return open_composer.compose([*words, f"dataset={name}"])

    def evaluate_config(run: str, name: str) -> Composed[EvaluateConfig]:
        other = replace(line, config_name="evaluate")
        with composer(other, EvaluateConfig) as open_composer:
            return open_composer.compose([*own, f"run={run}", f"dataset={name}", "split=all"])

    with quick_imports():
        from emorec.training.cross_corpus import cross_corpus

    print(cross_corpus(names, train_config, evaluate_config))
    return 0
