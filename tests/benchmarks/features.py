"""Benchmarks of the feature store: gathering and opening."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from emorec.config.schema import FeaturesConfig
from emorec.features.shard import write_shard
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.storage.digests import FileDigests
from tests.benchmarks.figure import Figure, interleaved, seconds


def gather(root: Path, *, utterances: int = 1500, rounds: int = 7) -> Figure:
    """Gathers random padded batches of variable-length (T, 768) half-precision features from the mapped store."""
    generator = np.random.default_rng(0)
    spec = FeatureSpec(encoder="Gathered", version=1, dtype="float16")
    store = FeatureStore(root / "cache", spec, FileDigests())
    keys = [hashlib.sha256(str(number).encode()).digest() for number in range(utterances)]
    for part in range(0, utterances, 500):
        values = [
            generator.standard_normal((int(length), 768), dtype=np.float32).astype(np.float16)
            for length in generator.integers(50, 400, 500)
        ]
        store.add(keys[part : part + 500], values, {})
    store.refresh()
    reader = store.reader(keys, FeaturesConfig(preload="none"))
    order = torch.randperm(utterances, generator=torch.Generator().manual_seed(0)).split(32)
    copies = [reader.gather(indices)[0] for indices in order]

    def own() -> float:
        return seconds(lambda: [reader.gather(indices) for indices in order])

    def plain_copy() -> float:
        return seconds(lambda: [copy.clone() for copy in copies])

    gathering, copying = interleaved(own, plain_copy, rounds=rounds)
    size = sum(copy.numel() * 2 for copy in copies)
    note = f"{size / gathering / 1e9:.1f} GB/s against {size / copying / 1e9:.1f}"
    return Figure("feature_gather_vs_memcpy", copying / gathering, "ratio", ">= 0.5", note)


def index_open(root: Path, *, entries: int = 1_000_000, rounds: int = 3) -> Figure:
    """Opens a store of a million utterances and locates a thousand of them."""
    spec = FeatureSpec(encoder="Indexed", version=1, dtype="float32")
    folder = root / "cache" / spec.folder_name
    generator = np.random.default_rng(0)
    shards = 20
    for _ in range(shards):
        block = generator.bytes(32 * (entries // shards))
        keys = [block[offset : offset + 32] for offset in range(0, len(block), 32)]
        rows = generator.standard_normal((len(keys), 1), dtype=np.float32)
        write_shard(folder, spec, keys, list(rows[:, None]), {})
    database = root / "cache" / "index_digests.tsv"
    digests = FileDigests(database)
    FeatureStore(root / "cache", spec, digests)
    digests.save()
    wanted = keys[:1000]

    def open_store() -> float:
        def work() -> None:
            store = FeatureStore(root / "cache", spec, FileDigests(database))
            assert len(store) == entries
            assert store.locate(wanted).found.all()

        return seconds(work)

    own, _ = interleaved(open_store, lambda: 0.0, rounds=rounds)
    return Figure("index_open_1m", own, "s", "<= 2")
