"""Writes the cards of an evaluation into its folder."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from emorec.config.cards import CardConfig
from emorec.storage.atomic import write_bytes, write_json

if TYPE_CHECKING:
    from emorec.cards.card import Card
    from emorec.training.evaluation import Evaluation


def write_cards(evaluation: "Evaluation", settings: CardConfig) -> Iterator[str]:
    """Writes `<card>.md`, `<card>.json` and figures into the folder of an evaluation; yields what is to be printed.

    Raises:
        UserError: a card cannot be made of this run.
    """
    makers = {name: _maker(name) for name in settings.chosen}
    for name, make in makers.items():
        card = make(evaluation, settings)
        for file, content in card.files.items():
            write_bytes(evaluation.target / file, content)
        write_json(evaluation.target / f"{name}.json", card.values)
        write_bytes(evaluation.target / f"{name}.md", card.markdown.encode())
        yield f"\n{card.summary}\n{evaluation.target / name}.md"


def _maker(name: str) -> "Callable[[Evaluation, CardConfig], Card]":
    if name == "robustness":
        from emorec.cards.robustness import robustness_card

        return robustness_card
    if name == "fairness":
        from emorec.cards.fairness import fairness_card

        return fairness_card
    if name == "explanation":
        from emorec.cards.explanation import explanation_card

        return explanation_card
    from emorec.cards.model_card import model_card

    return model_card
