"""What a run predicts where modalities are missing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from emorec.augmentation.modalities import drop_modalities
from emorec.cli import main
from emorec.draws import keys_of
from emorec.training.missing import subsets
from tests.training.test_trained_lifecycle import only_record

pytestmark = pytest.mark.slow


@pytest.fixture
def run(train_overrides: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The id of a run of three modalities."""
    assert main(["train", *train_overrides, "progress=false"]) == 0
    capsys.readouterr()
    return only_record(root).run_id


def evaluated(root: Path, run: str, name: str) -> list[Any]:
    return [json.loads(path.read_text()) for path in sorted(root.glob(f"checkpoints/{run}/evaluations/*/{name}"))]


def test_each_subset_of_the_modalities_is_evaluated(run: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", f"run={run}", "missing=grid"]) == 0
    out = capsys.readouterr().out
    (found,), (metrics,) = evaluated(root, run, "missing.json"), evaluated(root, run, "metrics.json")
    rows = found["rows"]
    assert [tuple(row["modalities"]) for row in rows] == subsets(("text", "audio", "video"))
    assert len(rows) == 7
    assert rows[0]["metrics"]["uar"] == pytest.approx(metrics["test/uar"])
    assert all(row["utterances"] == rows[0]["utterances"] for row in rows)
    assert len({row["metrics"]["loss"] for row in rows}) == 7
    assert "| text+audio+video |" in out
    assert "| mean " in out
    assert main(["report", "dataset=demo"]) == 0
    report = capsys.readouterr().out
    assert "with some modalities alone" in report
    assert f"{rows[-1]['metrics']['uar']:.3f}" in report


def test_modalities_are_missing_at_a_rate_by_seed(run: str, root: Path) -> None:
    for words in ([], ["missing.rate=0.6"], ["missing.rate=0.6", "missing.seed=1"], ["missing.rate=0.6"]):
        assert main(["evaluate", f"run={run}", *words]) == 0
    losses = {metrics["test/loss"] for metrics in evaluated(root, run, "metrics.json")}
    assert len(losses) == 3


@pytest.mark.parametrize("words", ["missing.rate=1", "missing.grid=maybe", "missing=some"])
def test_settings_that_do_not_fit_are_refused(words: str, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", f"run={run}", words]) == 2
    assert "missing" in capsys.readouterr().err


def test_the_subsets_of_three_are_seven() -> None:
    assert subsets(("text", "audio", "video")) == [
        ("text", "audio", "video"),
        *[("text", "audio"), ("text", "video"), ("audio", "video")],
        *[("text",), ("audio",), ("video",)],
    ]


def test_modalities_are_dropped_at_their_rate_and_one_always_stays() -> None:
    draw = keys_of([f"u{number}" for number in range(4000)])
    there = torch.ones(4000, dtype=torch.bool)
    present = {"text": there, "audio": there, "video": ~there}
    dropped = drop_modalities(present, 0.5, draw)
    assert not dropped["video"].any()
    assert (dropped["text"] | dropped["audio"]).all()
    shares = [float(dropped[name].float().mean()) for name in ("text", "audio")]
    assert shares == pytest.approx([0.625, 0.625], abs=0.03)  # .5, and half of the quarter that would have none
    again = drop_modalities({name: value[:7] for name, value in present.items()}, 0.5, draw[:7])
    assert all(torch.equal(again[name], dropped[name][:7]) for name in present)
    assert torch.equal(drop_modalities(present, 0.0, draw)["text"], there)
