"""The corpora that write a small copy of themselves, and what tests ask of every one of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emorec.config.instantiation import instantiate
from emorec.datasets.ch_sims import ChSims
from emorec.datasets.crema_d import CremaD
from emorec.datasets.iemocap import Iemocap
from emorec.datasets.manifest import Corpus
from emorec.datasets.meld import Meld
from emorec.datasets.ravdess import Ravdess
from tests.discovery import node

WITH_FIXTURE: dict[str, type[Corpus]] = {corpus.name: corpus for corpus in (Ravdess, Meld, Iemocap, CremaD, ChSims)}

Roots = Callable[[str], Path]


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """The root of a small corpus by its name, written once; a test that changes it makes a copy."""
    written: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in written:
            written[name] = tmp_path_factory.mktemp(f"small_{name}") / name
            WITH_FIXTURE[name].write_fixture(written[name])
        return written[name]

    return root


def configured(name: str, root: Path, **changes: Any) -> Corpus:
    """A corpus as its YAML file configures it, with `changes` on top."""
    corpus = instantiate(node("dataset", name, root=str(root), **changes), where="dataset")
    assert isinstance(corpus, Corpus)
    return corpus
