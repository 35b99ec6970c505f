"""The id of a run: a digest of all that defines its result."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emorec.config.keys import GROUPED_KEYS, LOCAL_KEYS, OPERATIONAL_KEYS, without_locations, without_unused
from emorec.storage.digests import digest_of

ID_DIGITS = 12


@dataclass(frozen=True)
class RunIdentity:
    """What identifies a run."""

    run_id: str  # 12 hex digits
    group_id: str  # the same for runs that differ only in seed and fold
    digest: str  # of the whole identity, 64 hex digits; tells two runs with the same run id apart


def _without(config: dict[str, Any], keys: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    kept = copy.deepcopy(config)
    for *path, last in keys:
        node: Any = kept
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)
    return kept


def identify(
    config: Mapping[str, Any],
    *,
    manifest_digest: str,
    feature_specs: Mapping[str, str],
    sources: Mapping[str, str],
    local_models: frozenset[str] = frozenset(),
    learned: Mapping[str, str] | None = None,
) -> RunIdentity:
    """Identifies a run.

    Args:
        config: the resolved config as plain data.
        manifest_digest: of the whole corpus.
        feature_specs: {modality: digest of its feature spec, and of what trains on it}.
        sources: {modality: digest over what its encoder reads, of the whole corpus}.
        learned: {modality: digest of what its encoder learned from the training split}; it differs within a group.
        local_models: modalities whose encoder names a local folder or file; its digest counts, in the spec.
    """
    paths = tuple(("encoder", modality, key) for modality in sorted(local_models) for key in LOCAL_KEYS)
    paths += tuple(("encoder", modality, "media") for modality in feature_specs)  # the specs hold the media settings
    defining = _without(without_unused(config), OPERATIONAL_KEYS + paths)
    defining["dataset"] = without_locations(defining["dataset"])
    data = {"manifest": manifest_digest, "features": dict(feature_specs), "sources": dict(sources)}
    digest = digest_of({"config": defining, **data, **({"learned": dict(learned)} if learned else {})})
    group = digest_of({"config": _without(defining, GROUPED_KEYS), **data})
    return RunIdentity(run_id=digest[:ID_DIGITS], group_id=group[:ID_DIGITS], digest=digest)
