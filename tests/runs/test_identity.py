"""The id of a run: what changes it, and what does not."""

import copy
from typing import Any

import pytest

from emorec.runs.identity import RunIdentity, identify

CONFIG: dict[str, Any] = {
    "seed": 0,
    "dataset": {"_target_": "emorec.datasets.meld.Meld", "root": "/data/meld", "fold": 1, "task": "emotion"},
    "encoder": {"text": {"model": "/models/minilm", "revision": "main", "pooling": "mean"}, "audio": None},
    "optimizer": {"lr": 0.001, "weight_decay": 0.0},
    "trainer": {"devices": 1, "precision": 32},
    "paths": {"cache": "/cache"},
    "extraction": {"workers": 2, "batch_size": 16},
    "tags": [],
    "notes": None,
    "test": True,
}
DATA: dict[str, Any] = {"manifest_digest": "m", "feature_specs": {"text": "f"}, "sources": {"text": "s"}}


def identity(changes: dict[str, Any] | None = None, **data: Any) -> RunIdentity:
    config = copy.deepcopy(CONFIG)
    for key, value in (changes or {}).items():
        *path, last = key.split(".")
        node = config
        for name in path:
            node = node[name]
        node[last] = value
    return identify(config, **{**DATA, **data}, local_models=frozenset({"text"}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("paths.cache", "/elsewhere"),
        ("dataset.root", "/moved"),
        ("extraction.workers", 8),
        ("extraction.batch_size", 1),
        ("tags", ["first"]),
        ("notes", "a try"),
        ("test", False),
        ("encoder.text.model", "/moved/minilm"),
        ("optimizer.weight_decay", 0),
    ],
)
def test_what_does_not_define_the_result_leaves_the_id_alone(key: str, value: Any) -> None:
    assert identity({key: value}) == identity()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("dataset.fold", 2),
        ("dataset.task", "sentiment"),
        ("encoder.text.pooling", "cls"),
        ("optimizer.lr", 0.002),
        ("trainer.devices", 2),
        ("trainer.precision", "bf16-mixed"),
    ],
)
def test_what_defines_the_result_changes_the_id(key: str, value: Any) -> None:
    assert identity({key: value}).run_id != identity().run_id


@pytest.mark.parametrize(
    "data", [{"manifest_digest": "x"}, {"feature_specs": {"text": "x"}}, {"sources": {"text": "x"}}]
)
def test_another_corpus_or_another_encoder_changes_the_id(data: dict[str, Any]) -> None:
    assert identity(**data).run_id != identity().run_id


def test_seed_and_fold_leave_the_group_alone_and_nothing_else_does() -> None:
    assert identity({"seed": 5, "dataset.fold": 3}).group_id == identity().group_id
    assert identity({"optimizer.lr": 0.002}).group_id != identity().group_id


def test_the_id_is_twelve_hex_digits_of_the_digest() -> None:
    result = identity()
    assert result.run_id == result.digest[:12]
    assert int(result.run_id, 16) >= 0


def test_what_an_encoder_learned_from_a_split_identifies_the_run_and_not_the_group() -> None:
    first, second = identity(learned={"text": "v"}), identity(learned={"text": "w"})
    assert len({first.run_id, second.run_id, identity().run_id}) == 3
    assert first.group_id == second.group_id
    assert identity(learned={}) == identity()
