"""Small pretrained checkpoints, and runs on the demo corpus."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emorec import load_run
from emorec.cli import main
from emorec.inference.loaded_run import LoadedRun
from emorec.runs.checkpoint_store import CheckpointStore
from tests.encoders.tiny_checkpoints import TinyCheckpoints


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoints:
    """{kind of network: folder of a small pretrained model}."""
    return TinyCheckpoints(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def module_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An `EMOREC_ROOT` for all tests of a module."""
    folder = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOREC_ROOT", str(folder))
        yield folder


@pytest.fixture(scope="module")
def train(module_root: Path, small_demo: Path) -> Callable[..., LoadedRun]:
    """Trains a small run, once for the same words."""
    found: dict[tuple[str, ...], LoadedRun] = {}
    store = module_root / "checkpoints"

    def trained(*words: str) -> LoadedRun:
        if words not in found:
            before = {record.run_id for record in CheckpointStore(store).records()}
            line = [f"dataset.root={small_demo}", "trainer.max_epochs=1", "model.hidden=16", "batch_size=8", *words]
            assert main(["train", *line, "progress=false"]) == 0
            (new,) = {record.run_id for record in CheckpointStore(store).records()} - before
            found[words] = load_run(new, checkpoints=store)
        return found[words]

    return trained
