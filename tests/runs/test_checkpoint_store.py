import shutil
import threading
from pathlib import Path

import pytest
import torch

from emorec.errors import UserError
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from emorec.runs.identity import RunIdentity

WEIGHTS = {"head": {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(2)}, "fusion": {"gate": torch.ones(4)}}


def record(run_id: str = "aaaaaaaaaaaa", **changes: object) -> RunRecord:
    values: dict[str, object] = {
        "run_id": run_id,
        "group_id": "g",
        "identity": run_id + "0" * 52,
        "status": "finished",
        "seed": 0,
        "fold": None,
        "task": {"name": "emotion"},
        "choices": {},
        "overrides": [],
        "started": "2026-01-01T00:00:00+0000",
    }
    return RunRecord(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def test_equal_weights_are_stored_once_and_linked_relatively(store: CheckpointStore) -> None:
    first, second = store.publish("a" * 12, WEIGHTS), store.publish("b" * 12, WEIGHTS)
    assert first == second
    assert len(list((store.root / "weights").iterdir())) == 2
    link = store.folder("b" * 12) / "model" / "head.safetensors"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()


def test_what_was_published_is_loaded_back(store: CheckpointStore) -> None:
    kept = record(weights=store.publish("aaaaaaaaaaaa", WEIGHTS))
    loaded = store.load(kept)
    assert loaded.keys() == WEIGHTS.keys()
    assert torch.equal(loaded["head"]["weight"], WEIGHTS["head"]["weight"])


def test_a_moved_store_still_resolves(store: CheckpointStore, tmp_path: Path) -> None:
    kept = record(weights=store.publish("aaaaaaaaaaaa", WEIGHTS))
    shutil.move(store.root, tmp_path / "moved")
    assert CheckpointStore(tmp_path / "moved").load(kept).keys() == WEIGHTS.keys()


def test_damaged_weights_are_refused(store: CheckpointStore) -> None:
    kept = record(weights=store.publish("aaaaaaaaaaaa", WEIGHTS))
    blob = store.root / "weights" / f"{kept.weights['head']}.safetensors"
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(bytes(content))
    with pytest.raises(UserError, match="the file is damaged"):
        store.load(kept)


def test_missing_weights_are_named(store: CheckpointStore) -> None:
    kept = record(weights=store.publish("aaaaaaaaaaaa", WEIGHTS))
    (store.root / "weights" / f"{kept.weights['head']}.safetensors").unlink()
    with pytest.raises(UserError, match=r"head\.safetensors"):
        store.load(kept)


def test_a_component_that_is_gone_loses_its_link(store: CheckpointStore) -> None:
    store.publish("aaaaaaaaaaaa", WEIGHTS)
    store.publish("aaaaaaaaaaaa", {"head": WEIGHTS["head"]})
    assert [path.name for path in (store.folder("aaaaaaaaaaaa") / "model").iterdir()] == ["head.safetensors"]


def test_a_reader_never_finds_a_link_missing_while_it_is_replaced(store: CheckpointStore) -> None:
    store.publish("aaaaaaaaaaaa", WEIGHTS)
    path, missing, stop = store.folder("aaaaaaaaaaaa") / "model" / "head.safetensors", [], threading.Event()

    def poll() -> None:
        while not stop.is_set():
            missing.append(not path.exists())

    reader = threading.Thread(target=poll)
    reader.start()
    for number in range(50):
        store.publish("aaaaaaaaaaaa", {"head": {"weight": torch.full((2,), float(number % 2))}})
    stop.set()
    reader.join()
    assert len(missing) > 0
    assert not any(missing)


def test_a_record_is_read_back_as_it_was_written(store: CheckpointStore) -> None:
    written = record(test_reads=[{"time": "now", "why": "best epoch 3"}], timings={"training": 1.5})
    store.write(written)
    assert store.read("aaaaaaaaaaaa") == written
    assert store.read("bbbbbbbbbbbb") is None


def test_a_run_id_that_meets_another_identity_is_refused_and_left_alone(store: CheckpointStore) -> None:
    store.write(record())
    before = (store.folder("aaaaaaaaaaaa") / "run.json").read_bytes()
    with pytest.raises(UserError, match="another run has this directory"):
        store.check_identity(RunIdentity("aaaaaaaaaaaa", "g", "a" * 64))
    assert (store.folder("aaaaaaaaaaaa") / "run.json").read_bytes() == before


def test_a_run_is_found_by_the_first_digits_of_its_id(store: CheckpointStore) -> None:
    store.write(record("abc000000000"))
    store.write(record("abd000000000"))
    assert store.find("abc").run_id == "abc000000000"
    for prefix in ("ab", "x", "../abc"):
        with pytest.raises(UserError, match="expected one run"):
            store.find(prefix)


def test_a_broken_record_is_named_and_does_not_hide_the_others(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(record("abc000000000"))
    broken = store.folder("def000000000") / "run.json"
    broken.parent.mkdir()
    broken.write_text("{")
    assert [found.run_id for found in store.records()] == ["abc000000000"]
    assert str(broken) in caplog.text
