"""A small corpus on random features in a real store."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from emorec.config.schema import FeaturesConfig
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import SPLITS, Task, Utterance
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.storage.digests import FileDigests

LABELS = ("angry", "calm", "happy", "sad")
DIMS = {"text": 5, "audio": 3}
TASK = Task(name="emotion", labels=LABELS)


@dataclass
class Example:
    """A data module and what it was made of.

    Attributes:
        module: the data module.
        values: {modality: {id: features (T, D)}}; no entry where an utterance lacks the modality.
    """

    module: UtteranceDataModule
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


MakeExample = Callable[..., Example]


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


@pytest.fixture
def make_example(tmp_path: Path) -> MakeExample:
    """Makes a data module; `missing` are (modality, id) pairs, `unlabelled` ids without a target.

    Dialogues have four turns, the last of a split may have fewer; with `dialogues` they are kept whole.
    """

    def make(
        *,
        sizes: tuple[int, int, int] = (10, 3, 4),
        batch_size: int = 4,
        seed: int = 0,
        missing: tuple[tuple[str, str], ...] = (("audio", "train_2"), ("text", "train_5"), ("audio", "val_0")),
        unlabelled: tuple[str, ...] = (),
        offset: float = 0.0,
        constant: float | None = None,
        resident_bytes: int = 0,
        dialogues: bool = False,
    ) -> Example:
        utterances = [
            Utterance(
                id=f"{split}_{number}",
                dataset="small",
                targets={} if f"{split}_{number}" in unlabelled else {"emotion": number % 3},  # none is sad
                speaker=f"speaker{number % 2}" if split == "train" else "speaker2",
                dialogue=f"{split}_{number // 4}",
                turn=number % 4,
                split=split,
            )
            for split, size in zip(SPLITS, sizes, strict=True)
            for number in range(size)
        ]
        manifest = Manifest(dataset="small", utterances=tuple(utterances), tasks={"emotion": TASK}, protocols={})
        example = Example(module=None)  # type: ignore[arg-type]
        readers = {}
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for modality, dim in DIMS.items():
            features = {}
            for number, item in enumerate(utterances):
                if (modality, item.id) not in missing:
                    generator = np.random.default_rng(list(key(f"{modality} {item.id}")))
                    frames = 1 if modality == "text" else 1 + number % 5
                    scale = 1.0 if item.split == "train" else 50.0  # so that statistics of other splits are noticed
                    features[item.id] = (scale * generator.normal(1.0, 2.0, (frames, dim)) + offset).astype(np.float32)
                    if constant is not None:
                        features[item.id][:, 0] = constant
            spec = FeatureSpec(encoder=f"Random{modality.title()}", version=1, dtype="float32")
            store = FeatureStore(folder, spec, FileDigests())
            names = list(features)
            half = len(names) // 2  # two shards, as two extractions leave them
            for part in (names[:half], names[half:]):
                store.add([key(name) for name in part], [features[name] for name in part], {})
            store.refresh()
            keys = [key(item.id) if item.id in features else None for item in utterances]
            readers[modality] = store.reader(keys, FeaturesConfig(resident_bytes=resident_bytes))
            example.values[modality] = features
        bounds = np.cumsum((0, *sizes))
        example.module = UtteranceDataModule(
            manifest=manifest,
            splits={split: [item for item in utterances if item.split == split] for split in SPLITS},
            task=TASK,
            readers=readers,
            indices={split: torch.arange(bounds[index], bounds[index + 1]) for index, split in enumerate(SPLITS)},
            batch_size=batch_size,
            seed=seed,
            scored={item.id for item in utterances if item.targets} if dialogues else None,
        )
        return example

    return make
