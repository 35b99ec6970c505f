"""Processes that extract the same features at the same time: each source is computed once, whoever is killed."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from emorec.config.schema import ExtractionConfig
from emorec.features.extraction import ExtractionReport, extract
from emorec.features.maintenance import collect
from emorec.features.sharing import KEYS_SUFFIX, SUFFIX
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.media.source import Source, UnfinishedDecodingError
from emorec.storage.claims import Holder
from emorec.storage.digests import FileDigests
from tests.faults.conftest import (
    FORK,
    Crew,
    Noise,
    append_line,
    elsewhere,
    lines,
    noise,
    open_store,
    plant_claim,
    run_extraction,
    texts,
    wrong_features,
)

pytestmark = pytest.mark.faults

Sources = dict[str, Source | None]


def entries(store: FeatureStore) -> dict[bytes, bytes]:
    """{key: bytes of its values}."""
    found: dict[bytes, bytes] = {}
    for shard in store.shards:
        for key, first, last in zip(shard.keys, shard.offsets[:-1], shard.offsets[1:], strict=True):
            assert key.tobytes() not in found, "one key was stored twice"
            found[key.tobytes()] = shard.values[first:last].tobytes()
    return found


def take_part(barrier: Any, cache: Path, folder: Path, sources: Sources) -> None:
    """Extracts together with others, and notes how many features this process has computed."""
    barrier.wait(60)
    _, report = run_extraction(cache, Noise(journal=folder / "journal", pause=0.05), sources, batch_size=4)
    append_line(folder / "computed", str(report.computed))


def start_all(crew: Crew, cache: Path, folder: Path, asked: list[Sources]) -> None:
    barrier = FORK.Barrier(len(asked))
    for sources in asked:
        crew.start(take_part, barrier, cache, folder, sources)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_compute_each_source_once_and_the_same_bytes_as_one(tmp_path: Path, crew: Crew, workers: int) -> None:
    start_all(crew, tmp_path / "cache", tmp_path, [texts(160)] * workers)
    crew.finish()
    alone, _ = run_extraction(tmp_path / "alone", Noise(), texts(160))
    computed = [int(line) for line in lines(tmp_path / "computed")]
    assert sorted(lines(tmp_path / "journal")) == sorted(f"text {number}" for number in range(160))
    assert sum(computed) == 160
    assert sum(count > 0 for count in computed) > 1, f"the work is shared: {computed}"
    store = open_store(tmp_path / "cache", Noise())
    assert entries(store) == entries(alone)
    left = {path.name for path in store.folder.iterdir()} - {shard.path.name for shard in store.shards}
    assert left == set()


def test_commands_on_different_parts_of_a_corpus_share_what_both_need(tmp_path: Path, crew: Crew) -> None:
    first, second = dict(list(texts(80).items())[:60]), dict(list(texts(80).items())[20:])
    start_all(crew, tmp_path / "cache", tmp_path, [first, second])
    crew.finish()
    assert sorted(lines(tmp_path / "journal")) == sorted(f"text {number}" for number in range(80))
    assert wrong_features(open_store(tmp_path / "cache", Noise()), Noise(), texts(80)) == 0


class Layered(Noise):
    """`Noise` of two layers side by side, or the second one alone."""

    alone: ClassVar[bool] = False

    @property
    def layers(self) -> tuple[int | None, ...]:
        return (2,) if self.alone else (1, 2)

    def features(self, source: Source) -> NDArray[np.float32]:
        rows = super().features(source)
        return rows if self.alone else np.concatenate([-rows, rows], axis=1)


class SecondLayer(Layered):
    alone = True


Layered.__name__ = SecondLayer.__name__ = "Noise"  # the spec contains the name of the class


def extract_layers(barrier: Any, cache: Path, journal: Path, kind: type[Layered]) -> None:
    encoder = kind(journal=journal, pause=0.1)
    stores = [FeatureStore(cache, FeatureSpec(**spec), FileDigests()) for spec in encoder.specs()]
    barrier.wait(60)
    extract(stores, encoder, texts(60), ExtractionConfig(device="cpu", batch_size=4))


def test_processes_that_need_different_layers_do_not_compute_a_layer_at_the_same_time(
    tmp_path: Path, crew: Crew
) -> None:
    barrier = FORK.Barrier(2)
    for kind in (Layered, SecondLayer):
        crew.start(extract_layers, barrier, tmp_path / "cache", tmp_path / kind.__qualname__, kind)
    crew.finish()
    both, second = (lines(tmp_path / kind.__qualname__) for kind in (Layered, SecondLayer))
    assert sorted(both) == sorted(f"text {number}" for number in range(60))
    assert len(set(second)) == len(second) < 60, "what fills both layers need not be computed for one"
    for spec, sign in zip(Layered().specs(), (-1, 1), strict=True):
        found = entries(FeatureStore(tmp_path / "cache", FeatureSpec(**spec), FileDigests()))
        rows = {noise(f"text {number}".encode(), 16).__mul__(sign).tobytes() for number in range(60)}
        assert set(found.values()) == rows


def test_the_sources_of_a_killed_worker_are_taken_over_at_once(
    tmp_path: Path, crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    journal, sources = tmp_path / "journal", texts(60)
    noise = Noise(journal=journal, pause=0.05)
    victim = crew.start(partial(run_extraction, every_seconds=0.1), tmp_path / "cache", noise, sources)
    wait_for(lambda: len(open_store(tmp_path / "cache", Noise())))
    assert collect(tmp_path / "cache", used=set(), act=True).in_use, "the claim of a worker keeps its store"
    crew.kill(victim)
    before, started = lines(journal), time.monotonic()
    store, report = run_extraction(tmp_path / "cache", Noise(journal=journal), sources, stale_after=300.0)
    assert time.monotonic() - started < 60
    assert "taking over from process" in caplog.text
    assert 0 < report.found < 60
    assert report.computed == len(lines(journal)) - len(before) == 60 - report.found
    assert wrong_features(store, Noise(), sources) == 0
    assert not [path for path in store.folder.iterdir() if path.name.endswith((SUFFIX, KEYS_SUFFIX))]


def keys_of(sources: Sources) -> list[bytes]:
    return [bytes.fromhex(source.key(FileDigests().digest)) for source in sources.values() if source is not None]


@pytest.mark.parametrize("holder", [elsewhere(), None], ids=["another host", "unreadable"])
def test_the_sources_of_a_worker_without_a_heartbeat_are_taken_over_last(tmp_path: Path, holder: Holder | None) -> None:
    sources, folder = texts(30), open_store(tmp_path, Noise()).folder
    folder.mkdir(parents=True)
    claim = folder / f"other{SUFFIX}"
    if holder is None:
        claim.write_text("{")
    else:
        plant_claim(claim, holder)
    (folder / f"other{KEYS_SUFFIX}").write_bytes(b"".join(keys_of(sources)[:10]) + b"torn")
    started = time.monotonic()
    store, report = run_extraction(
        tmp_path, Noise(journal=tmp_path / "journal"), sources, stale_after=1.0, batch_size=4, workers=1
    )
    assert 1.0 < time.monotonic() - started < 60
    assert report.computed == 30
    order = [int(line.removeprefix("text ")) for line in lines(tmp_path / "journal")]
    assert sorted(order) == list(range(30))
    assert set(order[:20]) == set(range(10, 30))
    assert wrong_features(store, Noise(), sources) == 0


class Slow(Noise):
    """Does not finish one text."""

    def features(self, source: Source) -> NDArray[np.float32]:
        rows = super().features(source)
        if source.text == "text 3":
            raise UnfinishedDecodingError("decoding takes longer than\n1 second")
        return rows


Slow.__name__ = "Noise"


def extract_slowly(barrier: Any, cache: Path, folder: Path) -> None:
    barrier.wait(60)
    report: ExtractionReport
    _, report = run_extraction(cache, Slow(journal=folder / "journal", pause=0.02), texts(30), batch_size=4)
    append_line(folder / "bad", " ".join(f"{name}: {reason}" for name, reason in report.bad.items()))


def test_a_source_that_one_worker_did_not_finish_is_left_to_the_next_start(tmp_path: Path, crew: Crew) -> None:
    barrier = FORK.Barrier(3)
    for _ in range(3):
        crew.start(extract_slowly, barrier, tmp_path / "cache", tmp_path)
    crew.finish()
    assert lines(tmp_path / "journal").count("text 3") == 1
    assert lines(tmp_path / "bad") == ["text3: decoding takes longer than 1 second"] * 3
    store, report = run_extraction(tmp_path / "cache", Noise(journal=tmp_path / "journal"), texts(30))
    assert (report.found, report.computed, report.bad) == (29, 1, {})
    assert lines(tmp_path / "journal").count("text 3") == 2
    assert wrong_features(store, Noise(), texts(30)) == 0
