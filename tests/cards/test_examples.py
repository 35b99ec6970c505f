"""Which utterances are shown, and that what a corpus says stays text."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from emorec.cards.attribution import shortened
from emorec.cards.examples import chosen_examples
from emorec.cards.page import page_of
from emorec.cards.words import Word
from emorec.datasets.utterance import Task
from emorec.runs.stored_predictions import StoredPredictions

TASK = Task(name="emotion", labels=("calm", "<angry>"))


def predictions_of(target: list[int], angry: list[float]) -> StoredPredictions:
    probabilities = np.array([[1 - value, value] for value in angry], dtype=np.float32)
    return StoredPredictions(
        id=np.array([f"u{row}" for row in range(len(target))], dtype=object),
        speaker=np.full(len(target), None, dtype=object),
        dialogue=np.full(len(target), None, dtype=object),
        target=np.array(target),
        predicted=probabilities.argmax(1),
        probabilities=probabilities,
    )


def test_the_surest_right_and_the_surest_wrong_ones_of_each_class_are_shown() -> None:
    predictions = predictions_of([0, 0, 0, 1, 1, -1], [0.1, 0.4, 0.7, 0.9, 0.6, 0.99])
    examples = chosen_examples(predictions, TASK, 1)
    found = [(item.id, item.title, item.target, item.predicted) for item in examples]
    assert found == [
        ("u0", "right", "calm", "calm"),
        ("u2", "wrong", "calm", "<angry>"),
        ("u3", "right", "<angry>", "<angry>"),
    ]


def test_of_values_the_nearest_and_the_farthest_are_shown() -> None:
    task = Task(name="valence", kind="regression", labels=("valence",))
    predictions = predictions_of([0, 0, 0, 0], [0.5] * 4)
    values = vars(predictions) | {
        "target": np.array([0.0, 0.0, np.nan, 0.0]),
        "predicted": np.array([0.3, 0.1, 0.0, -0.9]),
    }
    examples = chosen_examples(StoredPredictions(**values), task, 1)
    assert [(item.id, item.title) for item in examples] == [("u1", "near"), ("u3", "far")]


def test_the_page_shows_what_a_corpus_says_as_text_and_loads_nothing() -> None:
    predictions = predictions_of([1], [0.9])
    (example,) = chosen_examples(predictions, TASK, 1)
    evil = '<script>alert(1)</script>"&\x1b'
    shown: dict[str, Any] = {
        "example": example,
        "text": evil,
        "start": 0.5,
        "shares": {"text": 0.5, "audio": -0.1},
        "output": 0.9,
        "curves": {"audio": [0.0, 1.0, -2.0]},
        "words": [Word(evil, 0.2), Word("b", -0.4), Word("c", None)],
    }
    evaluation: Any = SimpleNamespace(
        record=SimpleNamespace(run_id="<b>"),
        data=SimpleNamespace(manifest=SimpleNamespace(dataset="<i>")),
        split="test",
    )
    page = page_of(evaluation, [shown], TASK)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;\\u001b" in page
    assert "<h2>&lt;angry&gt;</h2>" in page
    assert "Run &lt;b&gt; on &lt;i&gt;, test" in page
    assert 'style="background:rgba(0,114,178,0.30)" title="+0.200"' in page  # half of the largest
    assert 'style="background:rgba(213,94,0,0.60)" title="-0.400"' in page
    assert "default-src 'none'" in page


def test_a_long_curve_keeps_its_sum() -> None:
    import torch

    values = torch.arange(1000, dtype=torch.float64)
    parts = shortened(values, 120)
    assert len(parts) == 120
    assert sum(parts) == float(values.sum())
    assert shortened(values[:3], 120) == [0, 1, 2]
