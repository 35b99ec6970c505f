"""What somebody plants in a cache or beside a run is neither read nor followed, and its features are computed again."""

import hashlib
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emorec.errors import UserError
from emorec.features import shard as shard_module
from emorec.features.compaction import compact_all
from emorec.features.inventory import inventory
from emorec.features.maintenance import collect, verify
from emorec.features.shard import NAME_DIGITS, payload_digest
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.storage.claims import read_holder, try_claim
from emorec.storage.digests import FileDigests, hash_file
from tests.faults.conftest import Noise, run_extraction, texts, wrong_features

SPEC = FeatureSpec(**Noise().spec())
SOURCES = texts(2)
Header = dict[str, Any]


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """Ends a test that waits for a FIFO."""

    def stop(*_: object) -> None:
        pytest.fail("the test took too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def key_of(name: str) -> bytes:
    source = SOURCES[name]
    assert source is not None
    return bytes.fromhex(source.key(FileDigests().digest))


def plant(folder: Path, change: Callable[[Header, Header], bytes | None] = lambda *_: None, **given: Any) -> Path:
    """Writes a shard with values that nobody computed for the first source, under the name that its content asks for.

    Args:
        folder: of the spec.
        change: of the header and of its description; may return the whole content of the header.
        given: replace `values`, `offsets` or `keys`.
    """
    arrays = {
        "values": np.full((2, 16), 7.0, np.float32),
        "offsets": np.array([0, 2]),
        "keys": np.frombuffer(key_of("text0"), np.uint8)[None],
        **given,
    }
    description = {"spec": asdict(SPEC), "payload": payload_digest(**arrays), "reasons": {}}
    header: Header = {}
    data = b""
    for name, array in arrays.items():
        kind = {"f": "F", "i": "I", "u": "U"}[array.dtype.kind] + str(8 * array.dtype.itemsize)
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    text = change(header, description)
    header["__metadata__"] = header.get("__metadata__", {"emorec": json.dumps(description)})
    text = json.dumps(header).encode() if text is None else text
    content = len(text).to_bytes(8, "little") + text + data
    path = folder / f"{hashlib.sha256(content).hexdigest()[:NAME_DIGITS]}.safetensors"
    path.write_bytes(content)
    return path


def setting(*path: Any) -> Callable[[Header, Header], None]:
    """Sets what the keys lead to, in the header or else in its description, to the last argument."""

    def change(header: Header, description: Header) -> None:
        *keys, last, value = path
        target: Any = header if path[0] in header or path[0] == "more" else description
        for key in keys:
            target = target[key]
        target[last] = value

    return change


def deep(*_: Any) -> bytes:
    return b'{"values": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"


def deep_spec(header: Header, description: Header) -> None:
    text = json.dumps({**description, "spec": {**description["spec"], "media": "DEEP"}})
    header["__metadata__"] = {"emorec": text.replace('"DEEP"', '{"a":' * 900 + "1" + "}" * 900)}


CRAFTED: dict[str, Callable[[Path], Path]] = {
    "values of float16": lambda folder: plant(folder, values=np.full((2, 16), 7.0, np.float16)),
    "values of int64": lambda folder: plant(folder, values=np.full((2, 16), 7)),
    "values of uint8": lambda folder: plant(folder, values=np.full((2, 16), 7, np.uint8)),
    "values of one axis": lambda folder: plant(folder, values=np.full(2, 7.0, np.float32)),
    "values of another width": lambda folder: plant(folder, values=np.full((2, 8), 7.0, np.float32)),
    "negative offsets": lambda folder: plant(
        folder, offsets=np.array([0, -1, 2]), keys=np.repeat(np.frombuffer(key_of("text0"), np.uint8)[None], 2, 0)
    ),
    "offsets from another row on": lambda folder: plant(folder, offsets=np.array([1, 2])),
    "offsets beyond the values": lambda folder: plant(folder, offsets=np.array([0, 3])),
    "too many offsets": lambda folder: plant(folder, offsets=np.array([0, 1, 2])),
    "an entry without rows and reason": lambda folder: plant(
        folder, offsets=np.array([0, 0]), values=np.zeros((0, 16), "f4")
    ),
    "a reason of an entry with rows": lambda folder: plant(folder, setting("reasons", {"0": "silent"})),
    "a reason of no entry": lambda folder: plant(folder, setting("reasons", {"5": "silent"})),
    "a reason that is no text": lambda folder: plant(
        folder,
        setting("reasons", {"0": "\ud800"}),
        offsets=np.array([0, 0]),
        values=np.zeros((0, 16), "f4"),
    ),
    "keys of 16 bytes": lambda folder: plant(folder, keys=np.zeros((1, 16), np.uint8)),
    "a wrong digest of the payload": lambda folder: plant(folder, setting("payload", "0" * 64)),
    "overlapping arrays": lambda folder: plant(folder, setting("offsets", "data_offsets", [0, 16])),
    "negative places": lambda folder: plant(folder, setting("values", "data_offsets", [-128, 0])),
    "places that are no numbers": lambda folder: plant(folder, setting("values", "data_offsets", ["0", "128"])),
    "a shape that overflows": lambda folder: plant(folder, setting("values", "shape", [2**40, 2**40])),
    "a negative shape": lambda folder: plant(folder, setting("values", "shape", [-2, -16])),
    "a shape that is no list": lambda folder: plant(folder, setting("values", "shape", None)),
    "another array": lambda folder: plant(
        folder, setting("more", {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})
    ),
    "no keys": lambda folder: plant(folder, lambda header, _: header.pop("keys") and None),
    "another spec": lambda folder: plant(folder, setting("spec", "version", 2)),
    "another stored dtype": lambda folder: plant(folder, setting("spec", "dtype", ["float32"])),
    "a spec that is a list": lambda folder: plant(folder, setting("spec", [1, 2])),
    "a deep header": lambda folder: plant(folder, deep),
    "a deep spec": lambda folder: plant(folder, deep_spec),
    "a header that is a number": lambda folder: plant(folder, lambda *_: b"12"),
    "a header of no text": lambda folder: plant(folder, lambda *_: b"\xff\xfe{}"),
}


@pytest.mark.parametrize("craft", CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_shard_is_set_aside_and_its_features_are_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, craft: Callable[[Path], Path]
) -> None:
    run_extraction(tmp_path, Noise(), {"text1": SOURCES["text1"]})
    planted = craft(tmp_path / SPEC.folder_name)
    inventory(tmp_path)
    store, report = run_extraction(tmp_path, Noise(), SOURCES)
    assert not planted.exists()
    assert planted.with_name(f"{planted.name}.bad").exists()
    assert planted.name in caplog.text
    assert report.computed >= 1
    assert wrong_features(store, Noise(), SOURCES) == 0


def test_a_shard_of_which_nothing_is_wrong_is_read(tmp_path: Path) -> None:
    (tmp_path / SPEC.folder_name).mkdir()
    plant(tmp_path / SPEC.folder_name)
    assert FeatureStore(tmp_path, SPEC, FileDigests()).locate([key_of("text0")]).found.all(), (
        "the others differ from it"
    )


def test_shards_of_the_wrong_dimension_cost_no_utterance(tmp_path: Path) -> None:
    (tmp_path / SPEC.folder_name).mkdir()
    planted = CRAFTED["values of another width"](tmp_path / SPEC.folder_name)
    store, report = run_extraction(tmp_path, Noise(), SOURCES)  # which nothing contradicts before the first computation
    assert (report.found, report.computed) == (0, 2)
    assert wrong_features(store, Noise(), SOURCES) == 0
    assert not planted.exists()


def test_a_shard_that_this_user_cannot_read_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = run_extraction(tmp_path, Noise(), SOURCES)
    (path,) = store.folder.glob("*.safetensors")
    closed = path.stat().st_ino
    access, opened = os.access, shard_module.open_regular
    monkeypatch.setattr(os, "access", lambda name, way: access(name, way) and os.stat(name).st_ino != closed)

    def refuse(name: Path, *, follow: bool) -> Any:
        if name.stat().st_ino == closed:
            raise PermissionError(13, "Permission denied", str(name))
        return opened(name, follow=follow)

    monkeypatch.setattr(shard_module, "open_regular", refuse)
    store, report = run_extraction(tmp_path, Noise(), SOURCES)
    assert (report.found, report.computed) == (0, 2)
    assert wrong_features(store, Noise(), SOURCES) == 0


def test_features_that_vanish_while_they_are_computed_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureStore, "add", lambda *_: None)
    with pytest.raises(UserError, match="got none of 2 utterances"):
        run_extraction(tmp_path, Noise(), SOURCES)


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "LARGEST_HEADER", 1 << 16)
    (tmp_path / SPEC.folder_name).mkdir()

    def blown_up(header: Header, description: Header) -> bytes:
        return b" " * (1 << 17) + json.dumps({**header, "__metadata__": {"emorec": json.dumps(description)}}).encode()

    planted = plant(tmp_path / SPEC.folder_name, blown_up)
    assert len(FeatureStore(tmp_path, SPEC, FileDigests())) == 0
    assert not planted.exists()


def make_link(path: Path) -> None:
    outside = path.parents[2] / "outside"
    outside.mkdir()
    whole = plant(outside)
    path.symlink_to(whole.rename(outside / path.name))


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to a shard outside": make_link,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_regular_file_among_the_shards_is_set_aside(tmp_path: Path, make: Callable[[Path], object]) -> None:
    cache = tmp_path / "cache"
    run_extraction(cache, Noise(), {"text1": SOURCES["text1"]})
    content = plant(cache / SPEC.folder_name)
    content.unlink()
    make(content)
    assert inventory(cache)[0]["broken"] == 1
    assert compact_all(cache) == {SPEC.folder_name: 0}
    store, report = run_extraction(cache, Noise(), SOURCES)
    assert (report.found, report.computed, wrong_features(store, Noise(), SOURCES)) == (1, 1, 0)
    assert not os.path.lexists(content)
    make_again = content.with_name(f"{'0' * NAME_DIGITS}.safetensors")
    os.mkfifo(make_again)
    assert list(verify(cache).broken) == [f"{SPEC.folder_name}/{make_again.name}"]
    collect(cache, act=True)
    assert list(cache.rglob("*.bad")) == []
    outside = tmp_path / "outside"
    assert len(list(outside.iterdir())) == 1 if outside.exists() else make is not make_link


def test_verify_sets_a_shard_aside_that_lies_in_the_folder_of_another_spec(tmp_path: Path) -> None:
    run_extraction(tmp_path, Noise(dim=8), {"text1": SOURCES["text1"]})
    folder = tmp_path / FeatureSpec(**Noise(dim=8).spec()).folder_name
    planted = plant(folder)
    assert list(verify(tmp_path).broken) == [f"{folder.name}/{planted.name}"]
    assert list(compact_all(tmp_path)) == [folder.name]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


def test_a_spec_cannot_name_a_folder_outside_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = cache / "x-0123456789ab"
    folder.mkdir(parents=True)
    plant(folder, setting("spec", "encoder", "../../escaped"))
    assert compact_all(cache) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_changed_shard_that_cannot_be_set_aside_is_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache" / SPEC.folder_name).mkdir(parents=True)
    planted = plant(tmp_path / "cache" / SPEC.folder_name, setting("payload", "0" * 64))
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "read-only")))
    for _ in range(2):  # the second time its digests are known
        digests = FileDigests(tmp_path / "digests.tsv")
        assert len(FeatureStore(tmp_path / "cache", SPEC, digests)) == 0
        digests.save()
    assert planted.exists()


def link_to(target: Path) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def test_the_database_of_digests_is_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    canary = tmp_path / "bashrc"
    canary.write_text("a colleague's\n")
    canary.chmod(0o600)
    sound = tmp_path / "sound.wav"
    sound.write_bytes(b"sound")
    for name, make in (("link", link_to(canary)), ("fifo", os.mkfifo), ("device", link_to(Path("/dev/zero")))):
        database = tmp_path / name / "digests.tsv"
        database.parent.mkdir()
        make(database)
        digests = FileDigests(database)
        assert digests.digest(sound) == hashlib.sha256(b"sound").hexdigest()
        digests.save()
    assert canary.read_text() == "a colleague's\n"
    assert stat.S_IMODE(canary.stat().st_mode) == 0o600


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, link_to(Path("/dev/zero"))], ids=["fifo", "folder", "device"])
def test_only_regular_files_are_hashed(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "media.wav")
    with pytest.raises(OSError, match="regular file"):
        hash_file(tmp_path / "media.wav")


def test_a_file_that_grows_is_not_hashed_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "growing.wav"
    path.write_bytes(b"12345678")

    class Growing:
        """sha256 that makes the file longer with each block."""

        def __init__(self) -> None:
            self.blocks = 0

        def update(self, _: bytes) -> None:
            self.blocks += 1
            assert self.blocks < 100, "it goes on for ever"
            with path.open("ab") as stream:
                stream.write(b"12345678")

    monkeypatch.setattr(hashlib, "sha256", Growing)
    with pytest.raises(OSError, match="changes its size"):
        hash_file(path)


def test_a_file_of_proc_which_has_content_and_the_size_0_is_not_hashed() -> None:
    with pytest.raises(OSError, match="regular file"):
        hash_file(Path("/proc/self/environ"))


CLAIM = {"host": "h", "boot": "b", "pid": 1, "started": "1", "token": "t"}


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        link_to(Path("/dev/zero")),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(bytes(1 << 20)),
        lambda path: path.write_text(json.dumps({"host": [], "boot": 1, "pid": "../1", "started": {}, "token": None})),
        lambda path: path.write_text(
            json.dumps({"host": "h", "boot": "b", "pid": 1 << 80, "started": "1", "token": ""})
        ),
    ],
    ids=["fifo", "device", "deep", "large", "types", "number"],
)
def test_a_planted_claim_is_held_by_nobody_that_can_be_seen(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "claim.json")
    assert try_claim(tmp_path / "claim.json") is None
    holder = read_holder(tmp_path / "claim.json")
    assert holder is None or holder.pid == 1 << 80
