"""The name of a run: a digest of all that defines its result."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emorec.storage.digests import digest_of

# What may differ between two starts of the same run. Each is a path of keys into the config.
OPERATIONAL_KEYS = (
    ("paths",),
    ("extraction",),
    ("features",),
    ("progress",),
    ("logger",),
    ("launcher",),
    ("sweep",),
    ("checkpoint",),
    ("tags",),
    ("notes",),
    ("test",),
    ("on_running",),
    ("rerun",),
)
PLACES = ("root", "table")  # of a dataset, or of each of several that are one: where it lies does not count
LOCAL_KEYS = ("model", "revision", "path")  # of an encoder that reads a local folder or file
GROUPED_KEYS = (("seed",), ("dataset", "fold"))  # differ between the runs of a group
ID_DIGITS = 12


@dataclass(frozen=True)
class RunIdentity:
    """What identifies a run.

    Attributes:
        run_id: 12 hex digits.
        group_id: the same for runs that differ only in seed and fold.
        digest: of the whole identity, 64 hex digits; tells two runs apart that share a run id.
    """

    run_id: str
    group_id: str
    digest: str


def _without(config: dict[str, Any], keys: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    kept = copy.deepcopy(config)
    for *path, last in keys:
        node: Any = kept
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)
    return kept


def is_place(key: str) -> bool:
    """Whether a dotted key of a config tells where a corpus lies."""
    return key.startswith("dataset.") and key.rpartition(".")[2] in PLACES


def _without_places(dataset: Any) -> Any:
    if not isinstance(dataset, dict):
        return dataset
    return {key: _without_places(value) for key, value in dataset.items() if key not in PLACES}


def identify(
    config: Mapping[str, Any],
    *,
    manifest_digest: str,
    feature_specs: Mapping[str, str],
    sources: Mapping[str, str],
    local_models: frozenset[str] = frozenset(),
) -> RunIdentity:
    """Identifies a run.

    Args:
        config: the resolved config, primitives only.
        manifest_digest: of the whole corpus.
        feature_specs: {modality: digest of its feature spec}.
        sources: {modality: digest over what its encoder reads, of the whole corpus}.
        local_models: modalities whose encoder names a local folder or file, which counts by its digest, in the spec.
    """
    paths = tuple(("encoder", modality, key) for modality in sorted(local_models) for key in LOCAL_KEYS)
    paths += tuple(("encoder", modality, "media") for modality in feature_specs)  # the specs tell all of it
    defining = _without(dict(config), OPERATIONAL_KEYS + paths)
    defining["dataset"] = _without_places(defining["dataset"])
    data = {"manifest": manifest_digest, "features": dict(feature_specs), "sources": dict(sources)}
    digest = digest_of({"config": defining, **data})
    group = digest_of({"config": _without(defining, GROUPED_KEYS), **data})
    return RunIdentity(run_id=digest[:ID_DIGITS], group_id=group[:ID_DIGITS], digest=digest)
