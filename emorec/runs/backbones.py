"""Where the pretrained checkpoints of a finished run lie now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emorec.encoders.checkpoint import LOCAL, is_available
from emorec.encoders.encoder import Encoder
from emorec.encoders.huggingface import HuggingFaceEncoder
from emorec.errors import UserError, raise_problems
from emorec.runs.checkpoint_store import RunRecord


def with_present_models(
    encoders: Mapping[str, Any], record: RunRecord, folder: Path, moved: Mapping[str, str]
) -> dict[str, Any]:
    """The nodes {modality: node} of a run's encoders, with the names of checkpoints that are on this machine.

    A checkpoint that is neither in its folder nor in the local hub cache is taken from the run, if it is stored there
    (`checkpoint.backbone=link`).

    Args:
        folder: the run's directory.
        moved: {modality: name or folder of its checkpoint}, in place of those of the run.

    Raises:
        UserError: there is no such encoder, or it has no checkpoint.
    """
    nodes = {modality: dict(node) if isinstance(node, Mapping) else node for modality, node in encoders.items()}
    known = [modality for modality, node in nodes.items() if isinstance(node, dict) and "model" in node]
    raise_problems(
        f"run {record.run_id}",
        [
            f"expected encoder.<modality>.model of {known or 'no modality'}, got encoder.{modality}.model"
            for modality in moved
            if modality not in known
        ],
    )
    stored = {name.split("/")[1] for name in record.files if name.startswith("backbone/")}
    for modality in known:
        node = nodes[modality]
        if modality in moved:
            node["model"] = moved[modality]
        elif modality in stored and not is_available(node["model"], _commit(record, modality) or node["revision"]):
            node["model"] = str(folder / "backbone" / modality)
    return nodes


def check_checkpoint(record: RunRecord, encoder: Encoder) -> None:
    """Raises a `UserError` where an encoder reads another local checkpoint than the run did."""
    if not isinstance(encoder, HuggingFaceEncoder):
        return
    checkpoint, digest = encoder.resolved
    own = (record.feature_specs.get(encoder.modality) or [{}])[-1]
    if own.get("checkpoint") == checkpoint == LOCAL and own["revision"] != digest:
        raise UserError(
            f"expected the checkpoint of run {record.run_id}, with digest {own['revision']}, got another, with "
            f"{digest} ({encoder.where}.model={encoder.model})"
        )


def _commit(record: RunRecord, modality: str) -> str | None:
    """The commit of a modality's checkpoint on the hub."""
    own = (record.feature_specs.get(modality) or [{}])[-1]
    return None if own.get("checkpoint") in (None, LOCAL) else own["revision"]
