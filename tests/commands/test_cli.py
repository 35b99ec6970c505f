import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from emorec.cli import COMMANDS, main
from emorec.commands.completion import SUBCOMMANDS
from emorec.errors import Preempted
from tests.conftest import REPOSITORY
from tests.discovery import names


@pytest.mark.parametrize("words", [[], ["--help"], ["no_such_command"], ["--version"]])
def test_help_and_errors_load_neither_torch_nor_hydra(words: list[str]) -> None:
    code = (
        "import sys; from emorec.cli import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'lightning', 'hydra', 'numpy') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("[]")


@pytest.mark.slow
def test_a_head_on_stored_features_loads_only_what_torch_lightning_and_the_tables_load(
    root: Path, train_overrides: list[str]
) -> None:
    heavy = "matplotlib pandas scipy sympy transformers jinja2 PIL sklearn wandb optuna submitit tensorboard mlflow "
    heavy += "opensmile av cv2 decord soundfile onnx onnxruntime torchaudio torchvision"  # also of the README's extras
    code = f"import sys; {{first}}; print('loaded', *sorted(set({heavy.split()}) & sys.modules.keys()))"
    run = "from emorec.cli import main; main(sys.argv[1:])"
    peers = "import torch, lightning.pytorch, torchmetrics, hydra, pyarrow; pyarrow.array(['word'])"
    words = ["train", *train_overrides, "encoder/audio=none", "encoder/video=none", "trainer.max_epochs=1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def loaded(first: str, *arguments: str) -> set[str]:
        command = [sys.executable, "-c", code.format(first=first), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return set(done.stdout.rsplit("loaded", 1)[1].split())

    assert main(words) == 0  # stores the features
    assert loaded(run, *words, "seed=1") <= loaded(peers)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)


def test_an_unknown_command_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "train" in capsys.readouterr().err


def test_train_help_names_the_groups_and_their_choices(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    for group in ("dataset", "fusion", "encoder/audio"):
        line = f"{group}: {', '.join(names(group, without=()))}"
        assert line in printed


@pytest.mark.parametrize("words", [["--cfg", "job", "--resolve", "seed=7"], ["seed=7", "--resolve", "-c", "job"]])
def test_the_config_is_printed_wherever_the_flags_stand(
    words: list[str], capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    assert main(["train", *words]) == 0
    printed = capsys.readouterr().out
    assert "seed: 7" in printed
    assert f"root: {root}/data/demo" in printed


def test_an_unknown_choice_lists_what_there_is(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert main(["train", "fusion=concta"]) == 2
    printed = capsys.readouterr().err
    assert "concta" in printed
    assert all(name in printed for name in ("concat", "gated", "self_attention"))


def test_an_unknown_key_is_named(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert main(["train", "optimizer.learning_rate=1"]) == 2
    assert "learning_rate" in capsys.readouterr().err


def test_all_problems_of_a_config_are_named_at_once(capsys: pytest.CaptureFixture[str], empty_root: Path) -> None:
    assert main(["train", "seed=-1", "batch_size=0", "trainer.devices=0", "trainer.precision=8"]) == 2
    printed = capsys.readouterr().err
    assert all(name in printed for name in ("seed", "batch_size", "trainer.devices", "trainer.precision"))
    assert "4 problem" in printed
    assert [path.name for path in empty_root.iterdir()] == ["data"]


def test_a_class_outside_the_trusted_packages_is_refused(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert main(["train", "fusion._target_=os.system"]) == 2
    assert "EMOREC_TRUST" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("emorec ", "train"),
        ("emorec train fusion=", "fusion=gated"),
        ("emorec data ", "check"),
        ("emorec data check dataset=", "dataset=meld"),
        ("emorec train optimizer.", "optimizer.lr="),
    ],
)
def test_the_shell_completes_commands_groups_and_keys(
    line: str, offered: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert main(["-sc", "query=bash"]) == 0
    assert offered in capsys.readouterr().out.split()


@pytest.mark.parametrize(("stopped", "code"), [(KeyboardInterrupt(), 130), (Preempted("stopped by SIGUSR1"), 75)])
def test_a_stop_while_a_class_is_made_is_a_stop(
    stopped: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stops:
        def __set_name__(self, owner: type, name: str) -> None:
            raise stopped

    def train(_: object) -> int:
        type("Made", (), {"field": Stops()})
        return 0

    monkeypatch.setattr("emorec.commands.train.main", train)
    assert main(["train"]) == code
    assert capsys.readouterr().err.strip().endswith("the same command resumes")


@pytest.mark.parametrize("command", ["data", "cache", "runs"])
def test_each_action_of_a_command_is_completed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        main([command, "--help"])
    told = re.search(r"emorec data (\S+)|\{(\S+)\}", capsys.readouterr().out)
    assert told is not None
    assert sorted(SUBCOMMANDS[command]) == sorted(re.split(r"[|,]", told[1] or told[2]))


def test_a_config_is_printed_of_a_multirun_as_well(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert main(["train", "-m", "--cfg", "job", "seed=3"]) == 0
    assert "seed: 3" in capsys.readouterr().out


def test_the_completion_script_is_for_emorec(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert main(["train", "-sc", "install=bash"]) == 0
    assert "hydra_bash_completion emorec" in capsys.readouterr().out
