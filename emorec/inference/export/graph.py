"""The graph that is exported: from named tensors to probabilities."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from emorec.augmentation.spans import length_mask
from emorec.errors import raise_problems
from emorec.inference.export.graph_input import GraphInput
from emorec.inference.export.reading import Reading
from emorec.models.emotion_model import EmotionModel

LAYOUT, SPEAKERS = "layout", "speakers"  # inputs of a model with a context, see `Batch`


class ExportGraph(nn.Module):
    """A model with what comes before it. It has no step that depends on a value, unlike the model's own `forward`.

    Its inputs are tensors in the order of `names`; its outputs are probabilities (B, C) and logits (B, C), or values
    (B, K) for regression. With a context they come in the order of the layout.

    Args:
        model: in evaluation mode.
        readings: {modality: its first step}, in the order of the model's modalities.
    """

    def __init__(self, model: EmotionModel, readings: Mapping[str, Reading]) -> None:
        super().__init__()
        self.model = model
        self.readings = nn.ModuleDict(readings)

    @property
    def inputs(self) -> list[GraphInput]:
        """What it takes of each modality."""
        return [reading.declared for reading in self.readings.values()]  # type: ignore[union-attr, misc]

    @property
    def names(self) -> list[str]:
        """The names of all inputs."""
        own = [name for item in self.inputs for name in (item.name, item.lengths)]
        return own if self.model.context is None else [*own, LAYOUT, SPEAKERS]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return ["values"] if self.model.task.kind == "regression" else ["probabilities", "logits"]

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        """{input or output: {number of a dimension that varies: its name}}."""
        found: dict[str, dict[int, str]] = {}
        for item in self.inputs:
            found[item.name] = {number: name for number, name in enumerate(item.axes) if isinstance(name, str)}
            found[item.lengths] = {0: "batch"}
        if self.model.context is not None:
            found |= {LAYOUT: {0: "dialogues", 1: "turns"}, SPEAKERS: {0: "batch"}}
        return {**found, **{name: {0: "batch"} for name in self.outputs}}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, tensors, strict=True))
        features, masks, present = {}, {}, {}
        for name, reading in self.readings.items():
            lengths = given[f"{name}_lengths"]
            values, masks[name] = self._encoded(name, *reading(given[name], lengths))
            features[name] = self.model.projected(name, values)
            present[name] = lengths > 0
        fusion = self.model.fused(features, masks, present, given.get(LAYOUT), given.get(SPEAKERS))
        if self.model.standardisation is not None:
            fusion = replace(fusion, fused=self.model.standardisation.alone(fusion.fused))
        logits = self.model.decided(fusion)
        return (logits,) if self.model.task.kind == "regression" else (logits.softmax(1), logits)

    def _encoded(self, name: str, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T', D) of what the store keeps (B, T, I), and their mask (B, T'), false for missing ones."""
        mask = length_mask(lengths, values.shape[1])
        normalised = self.model.normalisation[name]
        if name not in self.model.encoder:
            return normalised(values.float()), mask
        part: Any = self.model.encoder[name]
        if part.front is not None:
            values, mask = part.front(values, mask)
            lengths = mask.sum(1)
        if part.standardised:
            values = normalised(values.float())
        features, mask = part.in_one_pass(values, lengths)
        return (self.model.encoded[name](features) if name in self.model.encoded else features), mask


def check_exportable(model: EmotionModel) -> None:
    """Raises a `UserError` with the reasons why a part of a model cannot be exported."""
    parts = {"fusion": model.fusion, "context": model.context}
    parts |= {f"encoder.{name}": part for name, part in model.encoder.items()}
    problems = [
        f"expected {where} to be one that can be exported, got {type(part).__name__}: {reason}"
        for where, part in parts.items()
        if (reason := getattr(part, "unexportable", ""))
    ]
    raise_problems("the graph", problems)
