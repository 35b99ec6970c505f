"""The command of a run is what it was started with, less what leaves its result alone."""

import shlex
from typing import Any

import pytest

from emorec.reporting.run_difference import command_of
from tests.runs.test_checkpoint_store import record


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"overrides": ["fusion=gated", "launcher=local", "sweep.name='a'", "progress=false"]}, ["fusion=gated"]),
        ({"overrides": ["dataset.fold=all", "seed=1"], "fold": 2}, ["seed=1", "dataset.fold=2"]),
        ({"overrides": ["dataset.fold=2"], "fold": 2}, ["dataset.fold=2"]),
        ({"overrides": ["notes='two words'"]}, ["notes='two words'"]),
        (
            {
                "overrides": ["seed=1"],
                "provenance": {"command": ["emorec", "train", "--config-dir", "my lab", "seed=1"]},
            },
            ["--config-dir", "my lab", "seed=1"],
        ),
        (
            {"overrides": [], "provenance": {"command": ["emorec", "train", "-cn=own", "seed=1"]}},
            ["-cn=own"],
        ),
    ],
)
def test_the_command_of_a_run(options: dict[str, Any], expected: list[str]) -> None:
    assert shlex.split(command_of(record(**options))) == ["emorec", "train", *expected]
