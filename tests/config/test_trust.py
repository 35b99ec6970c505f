"""A hostile config or checkpoint runs no code: each would leave a file behind."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from emorec.cli import main
from emorec.training.callbacks.history import History
from emorec.training.states import AtomicCheckpointIO, read_state, states

pytestmark = pytest.mark.slow

TARGETS = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "emorec.cli.os.system",
    "emorec.config.instantiation.importlib.import_module",
    "torch.nn.modules.os.system",
    "torch.nn.modules.module.functools.partial",
    "lightning.pytorch.loggers.csv_logs.os.system",
    "subprocess.Popen",
    "hydra.utils.instantiate",
]


class Hostile:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("position", ["logger", "fusion", "list", "override"])
def test_a_hostile_target_is_refused_wherever_it_stands_in_a_config(
    target: str, position: str, trace: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"__import__('os').system('touch {trace}')" if "builtins" in target else f"touch {trace}"
    evil = f'{{_target_: {target}, command: "{command}"}}'
    fusion = "_target_: emorec.fusion.concat.Concat\ndropout: 0.3\npooling: "
    texts = {
        "logger": f"evil: {evil}",
        "fusion": f"{fusion}{evil}",
        "list": f"{fusion}[mean, [{evil}]]",
        "override": "{}",
    }
    group = "logger" if position in ("logger", "override") else "fusion"
    folder = trace.parent / "configs" / group
    folder.mkdir(parents=True)
    (folder / "evil.yaml").write_text(texts[position])
    words = [f"{group}=evil", "--config-dir", str(folder.parent)]
    if position == "override":
        words = [f"optimizer._target_={target}", f"+optimizer.command='touch {trace}'"]
    assert main(["train", *train_overrides, *words]) == 2
    assert "_target_" in capsys.readouterr().err
    assert not trace.exists()


def _interrupted(words: list[str], monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """A run with a saved state."""
    real = History.on_train_epoch_end

    def stop(self: History, trainer: Any, module: Any) -> None:
        real(self, trainer, module)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_end", stop)
        assert main(["train", *words, "checkpoint.every_seconds=0"]) == 130
    (path,) = (root / "checkpoints").glob("*/run.json")
    return path.parent


def test_a_pickle_instead_of_a_saved_state_is_not_unpickled(
    root: Path,
    trace: Path,
    train_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = _interrupted(train_overrides, monkeypatch, root)
    folder, before = run / "resume", _contents(run)
    state = read_state(states(folder)[0])
    for path in folder.glob("*.ckpt"):
        path.unlink()
    content = pickle.dumps(Hostile(trace))
    digest = hashlib.sha256(content).hexdigest()[:16]
    hostile = folder / f"{10**9:012d}-{digest}.ckpt"
    hostile.write_bytes(content)
    assert main(["train", *train_overrides]) == 2
    assert "expected a state of tensors and primitives" in capsys.readouterr().err
    assert not trace.exists()
    assert _contents(run) == before

    hostile.unlink()
    state["state_dict"] = {name: value[..., :1].clone() for name, value in state["state_dict"].items()}
    AtomicCheckpointIO().save_checkpoint(state, folder / f"{10**9:012d}.ckpt")
    assert main(["train", *train_overrides]) == 2
    message = capsys.readouterr().err
    assert "expected a state that fits the run" in message
    assert "Traceback" not in message


def _contents(run: Path) -> dict[str, str]:
    return {name: (run / name).read_text() for name in ("run.json", "config.yaml", "splits.csv")}


def test_a_pickle_instead_of_weights_is_not_unpickled(
    root: Path, trace: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *train_overrides]) == 0
    (path,) = (root / "checkpoints").glob("*/run.json")
    content = pickle.dumps(Hostile(trace))
    digest = hashlib.sha256(content).hexdigest()
    weights = path.parent / "model" / "head.safetensors"
    weights.unlink()
    weights.write_bytes(content)
    assert main(["evaluate", f"run={path.parent.name}"]) == 2
    assert "got another: the file is damaged" in capsys.readouterr().err
    record = json.loads(path.read_text())
    record["weights"]["head"] = digest
    path.write_text(json.dumps(record))
    assert main(["evaluate", f"run={path.parent.name}"]) == 2
    assert "expected a safetensors file" in capsys.readouterr().err
    assert not trace.exists()


def test_a_hostile_target_in_a_stored_config_is_refused(
    root: Path, trace: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *train_overrides]) == 0
    (path,) = (root / "checkpoints").glob("*/config.yaml")
    path.write_text(path.read_text().replace("emorec.fusion.concat.Concat", "emorec.cli.os.system"))
    assert main(["evaluate", f"run={path.parent.name}"]) == 2
    assert "_target_" in capsys.readouterr().err
    assert not trace.exists()
