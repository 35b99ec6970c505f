"""Features that were computed elsewhere: formats, identity, and invalid files."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from emorec.config.schema import ExtractionConfig, FeaturesConfig
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.encoders.precomputed import Precomputed, PrecomputedAudio, PrecomputedText, PrecomputedVideo
from emorec.errors import UserError
from emorec.features.extraction import extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.media.source import MediaError, Source
from emorec.storage.digests import FileDigests, hash_file

Arrays = Mapping[str, NDArray[Any]]
WIDTH = 6


def arrays(**changes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Features by id: vectors and sequences of one width."""
    random = np.random.default_rng(0)
    made = {"a": random.normal(size=WIDTH), "b": random.normal(size=(4, WIDTH)), "c/d": random.normal(size=(1, WIDTH))}
    return {**{name: values.astype(np.float32) for name, values in made.items()}, **changes}


def save_safetensors(folder: Path, given: Arrays) -> Path:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(values) for name, values in given.items()}, folder / "features.safetensors")
    return folder / "features.safetensors"


def save_npz(folder: Path, given: Arrays) -> Path:
    np.savez(folder / "features.npz", **given)
    return folder / "features.npz"


def save_folder(folder: Path, given: Arrays) -> Path:
    for name, values in given.items():
        path = folder / "features" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values, allow_pickle=values.dtype.hasobject)
    return folder / "features"


def save_table(folder: Path, values: NDArray[Any], ids: str = "a\nb\nc/d\n") -> Path:
    np.save(folder / "features.npy", values, allow_pickle=values.dtype.hasobject)
    (folder / "features.txt").write_text(ids)
    return folder / "features.npy"


FORMATS = {"safetensors": save_safetensors, "npz": save_npz, "folder": save_folder}


@pytest.fixture(params=FORMATS)
def save(request: pytest.FixtureRequest) -> Callable[[Path, Arrays], Path]:
    save_arrays: Callable[[Path, Arrays], Path] = FORMATS[request.param]
    return save_arrays


def utterances(*ids: str) -> Manifest:
    made = tuple(Utterance(id=name, dataset="talk", text="so", targets={}) for name in ids)
    return Manifest(dataset="talk", utterances=made, tasks={}, protocols={})


def source(encoder: Precomputed, name: str) -> Source:
    manifest = utterances(name)
    located = encoder.source(manifest.utterances[0], manifest)
    assert located is not None
    return located


def read(encoder: Precomputed, name: str) -> NDArray[np.float32]:
    return encoder.read(source(encoder, name))


# Formats


def test_every_format_gives_the_arrays_by_id(tmp_path: Path, save: Callable[[Path, Arrays], Path]) -> None:
    encoder = PrecomputedAudio(path=str(save(tmp_path, arrays())))
    encoder.load()
    assert encoder.dim == WIDTH
    for name, values in arrays().items():
        assert read(encoder, name).dtype == np.float32
        np.testing.assert_array_equal(read(encoder, name), np.atleast_2d(values))


@pytest.mark.parametrize("shape", [(3, WIDTH), (3, 5, WIDTH)])
def test_a_table_gives_its_rows_by_id(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).normal(size=shape)
    encoder = PrecomputedVideo(path=str(save_table(tmp_path, values)))
    encoder.load()
    assert encoder.dim == WIDTH
    for row, name in zip(values, ("a", "b", "c/d"), strict=True):
        np.testing.assert_array_equal(read(encoder, name), np.atleast_2d(row).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8])
def test_numbers_of_any_kind_become_float32(tmp_path: Path, save: Callable[[Path, Arrays], Path], dtype: type) -> None:
    given = {"a": np.arange(WIDTH).astype(dtype), "b": np.ones((2, WIDTH), dtype)}
    encoder = PrecomputedAudio(path=str(save(tmp_path, given)))
    encoder.load()
    assert read(encoder, "a").tolist() == [[0, 1, 2, 3, 4, 5]]


def test_bfloat16_tensors_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2, WIDTH, dtype=torch.bfloat16)}, tmp_path / "features.safetensors")
    encoder = PrecomputedAudio(path=str(tmp_path / "features.safetensors"))
    encoder.load()
    assert read(encoder, "a").tolist() == [[1.0] * WIDTH] * 2


# Identity


def test_a_moved_file_keeps_spec_and_keys(tmp_path: Path, save: Callable[[Path, Arrays], Path]) -> None:
    (tmp_path / "old").mkdir()
    first = save(tmp_path / "old", arrays())
    second = Path(shutil.move(first, tmp_path / f"renamed{first.suffix}"))
    before = PrecomputedAudio(path=str(save(tmp_path / "old", arrays())))
    after = PrecomputedAudio(path=str(second))
    if first.suffix != ".npz":  # an archive holds the time of its making
        assert before.spec() == after.spec()
        assert source(before, "a").key(hash_file) == source(after, "a").key(hash_file)
    assert str(second) not in FeatureSpec(**after.spec()).canonical
    assert after.spec()["checkpoint"] == "local"


def test_edited_features_change_spec_and_keys(tmp_path: Path, save: Callable[[Path, Arrays], Path]) -> None:
    for name, given in (("old", arrays()), ("new", arrays(a=np.zeros(WIDTH, np.float32)))):
        (tmp_path / name).mkdir()
        save(tmp_path / name, given)
    path = save(tmp_path, arrays()).relative_to(tmp_path)
    old, new = (PrecomputedAudio(path=str(tmp_path / name / path)) for name in ("old", "new"))
    assert old.spec() != new.spec()
    assert source(old, "a").key(hash_file) != source(new, "a").key(hash_file)


def test_swapped_ids_change_the_spec(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(3, WIDTH))
    before = PrecomputedAudio(path=str(save_table(tmp_path, values))).spec()
    assert PrecomputedAudio(path=str(save_table(tmp_path, values, "b\na\nc/d\n"))).spec() != before


def test_utterances_do_not_share_a_key(tmp_path: Path, save: Callable[[Path, Arrays], Path]) -> None:
    same = np.ones(WIDTH, np.float32)
    encoder = PrecomputedAudio(path=str(save(tmp_path, {"a": same, "b": same})))
    assert source(encoder, "a").key(hash_file) != source(encoder, "b").key(hash_file)


def test_modalities_do_not_share_a_store(tmp_path: Path) -> None:
    path = str(save_npz(tmp_path, arrays()))
    specs = [FeatureSpec(**kind(path=path).spec()) for kind in (PrecomputedText, PrecomputedAudio, PrecomputedVideo)]
    assert len({spec.digest for spec in specs}) == 3


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emorec.storage import digests

    hashed: list[Path] = []
    monkeypatch.setattr(digests, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    encoder = PrecomputedAudio(path=str(save_npz(tmp_path, arrays())))
    memory = FileDigests()
    for _ in range(3):
        encoder.spec()
        for name in arrays():
            source(encoder, name).key(memory.digest)
    assert len(hashed) == 2  # one of the spec, one of the keys


# A corpus and a file that differ


def test_an_utterance_that_is_not_in_the_file_lacks_the_modality(
    tmp_path: Path, save: Callable[[Path, Arrays], Path], caplog: pytest.LogCaptureFixture
) -> None:
    encoder = PrecomputedAudio(path=str(save(tmp_path, arrays())))
    manifest = utterances("a", "x", "y")
    with caplog.at_level(logging.INFO):
        located = [encoder.source(item, manifest) for item in manifest.utterances]
    assert [item is None for item in located] == [False, True, True]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]  # once, not for each utterance
    missing, unused = (record.getMessage() for record in caplog.records)
    assert "2 of 3 utterances of talk have no features" in missing
    assert "such as x" in missing
    assert "2 of 3 ids" in unused
    assert "such as b" in unused


def test_extraction_stores_what_is_there(tmp_path: Path, save: Callable[[Path, Arrays], Path]) -> None:
    encoder, manifest = PrecomputedAudio(path=str(save(tmp_path, arrays()))), utterances("b", "x", "a")
    store = FeatureStore(tmp_path / "cache", FeatureSpec(**encoder.spec()), FileDigests())
    sources = {item.id: encoder.source(item, manifest) for item in manifest.utterances}
    report = extract(store, encoder, sources, ExtractionConfig(progress=False, device="cpu"))
    reader = store.reader(list(report.keys.values()), FeaturesConfig())
    assert reader.present.tolist() == [True, False, True]
    values, mask = reader.gather(torch.tensor([0, 2]))
    np.testing.assert_array_equal(values[0][mask[0]].numpy(), arrays()["b"])
    np.testing.assert_array_equal(values[1][mask[1]].numpy(), arrays()["a"][None])


def test_a_missing_id_cannot_be_read(tmp_path: Path) -> None:
    encoder = PrecomputedAudio(path=str(save_npz(tmp_path, arrays())))
    with pytest.raises(MediaError, match=r"expected features of 'nobody' in features\.npz"):
        encoder.read(Source(modality="audio", path=encoder.path, text="nobody"))


# What is refused


def prepare(path: Path) -> None:
    """Does what is done with a file before its features are read."""
    encoder = PrecomputedAudio(path=str(path))
    encoder.spec()
    encoder.load()


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        prepare(path)
    return str(refused.value)


def test_all_invalid_arrays_are_listed(tmp_path: Path, save: Callable[[Path, Arrays], Path]) -> None:
    holes = np.ones((3, WIDTH), np.float32)
    holes[1, 2], holes[2, 0] = np.nan, np.inf
    bad = {
        "e": holes,
        "f": np.ones((2, WIDTH + 1), np.float32),
        "g": np.ones((1, 2, WIDTH), np.float32),
        "h": np.ones((0, WIDTH), np.float32),
        "i": np.full(WIDTH, 1e300),
        "j": np.float32([[]]),
        "k": np.ones(WIDTH, bool),
    }
    message = refusal(save(tmp_path, arrays(**bad)))
    assert "7 problem(s)" in message
    for words in (
        "e: expected finite numbers in float32, got 2 that are not",
        f"f: expected D={WIDTH} as in most arrays, got an array (2, 7)",
        "g: expected an array (D,) or (T, D)",
        "h: expected an array (D,) or (T, D)",
        "i: expected finite numbers in float32, got 6 that are not",
        "j: expected an array (D,) or (T, D)",
        "k: expected numbers, got",
    ):
        assert words in message
    assert "- a:" not in message


def test_many_problems_are_counted(tmp_path: Path, save: Callable[[Path, Arrays], Path]) -> None:
    bad = {f"n{number:02}": np.full(WIDTH, np.nan, np.float32) for number in range(25)}
    message = refusal(save(tmp_path, arrays(**bad)))
    assert "25 problem(s)" in message
    assert message.count("- n") == 20
    assert "and 5 more" in message


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("expected nothing to be unpickled",)


def test_python_objects_are_refused_and_not_unpickled(tmp_path: Path) -> None:
    trap = np.array([Trap()] * 3, dtype=object)
    for kind in (save_npz, save_folder):
        message = refusal(kind(tmp_path, arrays(e=trap)))
        assert "e: holds Python objects, which only unpickling could read" in message
        assert "problem(s)" not in message  # the other arrays are valid
    assert "holds Python objects" in refusal(save_table(tmp_path, trap))


def test_a_pickle_under_another_name_is_refused(tmp_path: Path) -> None:
    import pickle

    for name in ("features.npy", "features.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        (tmp_path / "features.txt").write_text("a\n")
        assert "cannot be read" in refusal(tmp_path / name)


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "npy"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_a_damaged_file_is_refused_with_a_clear_message(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"features.{suffix}"
    path.write_bytes(content)
    (tmp_path / "features.txt").write_text("a\n")
    assert "cannot be read" in refusal(path)


def test_damaged_files_of_a_folder_are_listed(tmp_path: Path) -> None:
    path = save_folder(tmp_path, arrays())
    (path / "b.npy").write_bytes((path / "b.npy").read_bytes()[:-8])
    (path / "a.npy").write_bytes(b"")
    message = refusal(path)
    assert "2 problem(s)" in message
    assert "a: cannot be read" in message
    assert "b: cannot be read" in message


def test_a_missing_or_unknown_file_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "none.npz")
    assert "got no such file or folder (encoder.audio.path)" in message
    (tmp_path / "empty").mkdir()
    assert "expected arrays by utterance id" in refusal(tmp_path / "empty")
    (tmp_path / "features.pkl").write_bytes(b"")
    assert "expected a folder or a file in ('.safetensors', '.npz', '.npy')" in refusal(tmp_path / "features.pkl")


def test_a_table_needs_an_id_for_each_row(tmp_path: Path) -> None:
    values = np.ones((3, WIDTH), np.float32)
    assert "expected 3 ids" in refusal(save_table(tmp_path, values, "a\nb\n"))
    assert "b: found more than once" in refusal(save_table(tmp_path, values, "a\nb\nb\n"))
    (tmp_path / "features.txt").unlink()
    assert "got no such file" in refusal(tmp_path / "features.npy")
