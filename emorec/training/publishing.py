"""Publishes what a run has trained: its weights, adapters in peft's layout, and checkpoints of pretrained encoders."""

import json
from pathlib import Path

from emorec.encoders.huggingface import HuggingFaceEncoder
from emorec.encoders.lora import adapter
from emorec.encoders.pretrained_part import PretrainedPart
from emorec.models.emotion_model import EmotionModel
from emorec.runs.checkpoint_store import RunRecord
from emorec.training.run_context import RunContext


def publish(context: RunContext, model: EmotionModel, record: RunRecord) -> None:
    """Stores the weights of a model in the run's directory, and notes their digests in its record."""
    store, run_id = context.store, record.run_id
    record.weights = store.publish(run_id, model.components())
    record.files = {
        **store.publish_files(run_id, "adapter", adapters(model)),
        **store.publish_files(run_id, "backbone", backbones(context)),
    }


def backbones(context: RunContext) -> dict[str, dict[str, Path]]:
    """{modality: {name: path}} of the files of pretrained checkpoints that are stored with the run.

    Raises:
        UserError: a checkpoint is not on this machine.
    """
    if context.config.checkpoint.backbone == "reference":
        return {}
    files = {modality: encoder.checkpoint_files() for modality, encoder in context.encoders.items()}
    return {modality: {path.name: path for path in paths} for modality, paths in files.items() if paths}


def lacks_backbones(context: RunContext, record: RunRecord) -> bool:
    """Whether a config asks for checkpoints that are not stored with its finished run."""
    stored = {name.split("/")[1] for name in record.files if name.startswith("backbone/")}
    pretrained = {name for name, item in context.encoders.items() if isinstance(item, HuggingFaceEncoder)}
    return context.config.checkpoint.backbone == "link" and not pretrained <= stored


def adapters(model: EmotionModel) -> dict[str, dict[str, bytes]]:
    """{modality: {name: content}} of the files that peft reads, for each encoder with adapters."""
    from safetensors.torch import save

    folders = {}
    for modality, part in model.encoder.items():
        if isinstance(part, PretrainedPart) and part.lora is not None:
            settings, weights = adapter(part.stack.network, part.lora)
            text = json.dumps(settings, indent=2, sort_keys=True)
            folders[modality] = {"adapter_config.json": text.encode(), "adapter_model.safetensors": save(weights)}
    return folders
