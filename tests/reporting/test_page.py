"""The page of a report: it needs nothing else, what runs name is no markup, and it shows what they got wrong."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emorec.datasets.utterance import Utterance
from emorec.reporting.aggregate import Group, finished_runs, grouped, with_predictions
from emorec.reporting.exploration import Exploration
from emorec.reporting.figures import pictures_of
from emorec.reporting.hardest import hardest
from emorec.reporting.pooled import Pooled
from emorec.reporting.report import write_report
from emorec.reporting.tables import make_tables
from emorec.runs.checkpoint_store import CheckpointStore
from tests.conftest import tone
from tests.reporting.run_directories import Answers, publish

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a page is made of.

    Attributes:
        tags: (name, attributes) of each.
    """

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def three(predicted: list[int], confidence: float = 0.75) -> Answers:
    """Of the utterances a (class 0), b (0), c (1) and d (1)."""
    return Answers(list("abcd"), np.array([0, 0, 1, 1]), np.array(predicted), {"speaker": list("ttuu")}, confidence)


def written(store: CheckpointStore, folder: Path, **options: Any) -> str:
    tables = make_tables(grouped(with_predictions(finished_runs(store), store)), draws=100)
    write_report(folder, tables, **options)
    return (folder / "report.html").read_text()


def only_group(store: CheckpointStore) -> Group:
    (group,) = grouped(with_predictions(finished_runs(store), store))
    return group


def test_the_page_needs_no_other_file_and_shows_each_group(store: CheckpointStore, tmp_path: Path) -> None:
    predictions = {split: three([0, 0, 1, 0]) for split in ("val", "test")}
    for rate in (0.1, 0.2):
        publish(store, {"optimizer.lr": rate}, predictions=predictions)
    content = written(store, tmp_path)
    page = Page(content)
    for attributes in (item for _, item in page.tags):
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    assert "default-src 'none'" in str(page.named("meta"))
    assert not re.search(r"url\(|@import|fetch\(|import\(", content)
    names = {group.group_id for group in grouped(finished_runs(store))}
    assert names == {item["id"] for item in page.named("details") if "id" in item}
    assert {item["href"] for item in page.named("a")} == {f"#{name}" for name in names}
    kinds = {path.name.partition("_")[0] for path in (tmp_path / "figures").glob("*.pdf")}
    assert kinds == {"curves", "classes", "reliability", "roc"}
    assert len(page.named("img")) == 2 * len(kinds)
    assert content.count("emorec train") == 2


def test_what_runs_name_is_no_markup(store: CheckpointStore, tmp_path: Path) -> None:
    labels = [HOSTILE, "calm"]
    answers = Answers([HOSTILE, "b"], np.array([0, 1]), np.array([1, 1]), {"speaker": [HOSTILE, "x"]})
    publish(
        store,
        {"notes": HOSTILE, "fusion._target_": HOSTILE},
        choices={"fusion": HOSTILE},
        data={"dataset": HOSTILE},
        task={"labels": labels, "name": HOSTILE},
        predictions={"val": answers, "test": answers},
    )
    content = written(store, tmp_path)
    assert HOSTILE not in content
    assert "&lt;script&gt;" in content
    assert len(Page(content).named("script")) == 1


def test_the_hardest_utterances_are_those_whose_class_is_least_probable_over_the_runs(store: CheckpointStore) -> None:
    publish(store, {"seed": 0}, predictions={"test": three([0, 1, 1, 0], 0.9), "val": three([0, 0, 1, 1])})
    publish(store, {"seed": 1}, predictions={"test": three([0, 1, 1, 1], 0.6), "val": three([0, 0, 1, 1])})
    group = only_group(store)
    pooled = Pooled.of(group)
    assert pooled is not None
    found = hardest(group, pooled, None, count=3)
    assert [item.id for item in found] == ["b", "d", "a"]
    assert [item.score for item in found] == pytest.approx([0.25, 0.35, 0.75])  # means of .1 and .4, .1 and .6, …
    assert [(item.target, item.predicted, item.speaker, item.runs) for item in found[:2]] == [
        ("angry", "calm", "t", 2),
        ("calm", "angry", "u", 2),
    ]
    assert not found[0].text
    assert not found[0].sound


def test_an_utterance_is_shown_with_its_text_and_sound(
    store: CheckpointStore, write_sound: Any, tmp_path: Path
) -> None:
    publish(store, predictions={"test": three([1, 1, 1, 1]), "val": three([0, 0, 1, 1])})
    path = write_sound("b.wav", tone(0.5))
    utterances = {
        "a": Utterance(id="a", dataset="demo", targets={}, text=HOSTILE, audio=tmp_path / "gone.wav"),
        "b": Utterance(id="b", dataset="demo", targets={}, text="well", audio=path),
    }
    columns = {"class": list("xyxy"), "speaker": list("ttuu")}
    vectors = np.eye(4, dtype=np.float32)
    content = written(
        store, tmp_path / "report", explore=lambda _: Exploration(utterances, vectors, columns), projection="pca"
    )
    (player,) = Page(content).named("audio")
    assert str(player["src"]).startswith("data:audio/flac;base64,ZkxhQ")  # fLaC
    assert "well" in content
    assert HOSTILE not in content
    assert len(list((tmp_path / "report" / "figures").glob("projection_*.p*"))) == 2


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_projection_is_the_same_each_time(method: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    explored = Exploration({}, vectors, {"split": ["train"] * 10 + ["test"] * 10})
    first, second = explored.picture(method), explored.picture(method)
    assert first is not None
    assert second is not None
    assert first.png == second.png
    assert first.pdf == second.pdf
    assert Exploration({}, vectors[:3], {"split": ["train"] * 3}).picture(method) is None


def test_values_are_shown_against_true_ones(store: CheckpointStore) -> None:
    answers = Answers(["a", "b", "c"], np.array([0.0, 1.0, np.nan]), np.array([0.5, 0.9, 2.0]))
    task = {"labels": [], "kind": "regression", "monitor": "ccc"}
    publish(store, task=task, predictions={"val": answers, "test": answers})
    group = only_group(store)
    pooled = Pooled.of(group)
    assert pooled is not None
    assert [picture.kind for picture in pictures_of(group, pooled)] == ["curves", "scatter"]
    (worst, _) = hardest(group, pooled, None)
    assert (worst.id, worst.target, worst.predicted) == ("a", "0.000", "0.500")
