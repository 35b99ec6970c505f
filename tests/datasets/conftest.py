"""The corpora with a fixture, and helpers to read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emorec.config.instantiation import instantiate
from emorec.datasets.ch_sims import ChSims
from emorec.datasets.crema_d import CremaD
from emorec.datasets.emodb import EmoDb
from emorec.datasets.iemocap import Iemocap
from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.meld import Meld
from emorec.datasets.ravdess import Ravdess
from emorec.datasets.utterance import Utterance
from tests.discovery import node

WITH_FIXTURE: dict[str, type[Corpus]] = {
    corpus.name: corpus for corpus in (Ravdess, Meld, Iemocap, CremaD, ChSims, EmoDb)
}

Roots = Callable[[str], Path]


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """Returns the root of a small corpus by name. It is written once, so a test that changes it makes a copy."""
    written: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in written:
            written[name] = tmp_path_factory.mktemp(f"small_{name}") / name
            WITH_FIXTURE[name].write_fixture(written[name])
        return written[name]

    return root


def configured(name: str, root: Path, **changes: Any) -> Corpus:
    """A corpus as configured by its YAML file and `changes`."""
    return instantiate(node("dataset", name, root=str(root), **changes), where="dataset", kind=Corpus)


def by_id(manifest: Manifest, name: str) -> Utterance:
    (utterance,) = (item for item in manifest.utterances if item.id == name)
    return utterance


def write_files(root: Path, *names: str, content: bytes = b"media") -> Path:
    """Writes files with any content, for tests that do not decode them, and returns the root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root
