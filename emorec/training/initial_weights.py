"""Weights of another run that training starts from."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from emorec.config.schema import TrainConfig
from emorec.errors import raise_problems
from emorec.models.emotion_model import EmotionModel
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from emorec.runs.weights import load_components

log = logging.getLogger(__name__)

FITTED = ("normalisation", "encoded", "loss", "calibration")  # components that a new training fits anew
Parts = dict[str, dict[str, Tensor]]  # {part, such as "fusion" or "encoder.audio": {name in the model: its weights}}


@dataclass(frozen=True)
class InitialWeights:
    """A finished run, and which of its components are taken."""

    record: RunRecord
    folder: Path
    # components, such as "encoder", or those of one modality, such as "encoder.audio"; `None` for all that fit
    chosen: tuple[str, ...] | None

    @property
    def digests(self) -> dict[str, str]:
        """{component: digest of its weights} of those that may be taken."""
        learned = {name: digest for name, digest in self.record.weights.items() if _component(name) not in FITTED}
        chosen = learned if self.chosen is None else self.chosen
        return {name: digest for name, digest in learned.items() if any(_overlap(name, item) for item in chosen)}

    def load_into(self, model: EmotionModel) -> None:
        """Gives a model the weights that fit it, and logs which.

        Raises:
            UserError: a tensor has another shape, or a component that is asked for does not fit.
        """
        taken, left = fitting(
            parts_of(load_components(self.folder, self.digests)),
            parts_of(model.components()),
            chosen=self.chosen,
            has_same_labels=self.record.task.get("labels") == list(model.task.labels),
        )
        state = model.state_dict()
        model.load_state_dict({**state, **{name: value for part in taken.values() for name, value in part.items()}})
        log.info("init_from=%s: taken are %s", self.record.run_id, ", ".join(taken))
        for name, reason in left.items():
            log.info("init_from=%s: left out is %s: %s", self.record.run_id, name, reason)


def find_initial(config: TrainConfig, store: CheckpointStore) -> InitialWeights | None:
    """The weights that a config's training starts from; `None` for new ones.

    Raises:
        UserError: there is no such run, or it has none of the components.
    """
    if config.init_from is None:
        return None
    record, folder = store.locate(config.init_from)
    chosen = None if config.init_components is None else tuple(config.init_components)
    known = sorted(name for name in record.weights if _component(name) not in FITTED)
    raise_problems(
        "init_components",
        [
            f"expected components of run {record.run_id}, {known}, got {item!r}"
            for item in chosen or ()
            if not any(_overlap(name, item) for name in known)
        ],
    )
    return InitialWeights(record, folder, chosen)


def fitting(
    source: Parts, target: Parts, *, chosen: tuple[str, ...] | None, has_same_labels: bool
) -> tuple[Parts, dict[str, str]]:
    """The parts that a model takes from another, and {part: why it is left out}.

    A part fits where the model has all of its tensors in the same shapes.

    Raises:
        UserError: a tensor has another shape, or a chosen part does not fit.
    """
    taken, left, problems = {}, {}, []
    for name, weights in source.items():
        is_chosen = chosen is not None and any(_is_of(name, item) for item in chosen)
        if chosen is not None and not is_chosen:
            continue
        unknown = [key for key in weights if key not in target.get(name, {})]
        if name == "head" and not has_same_labels:
            left[name] = "it is for other labels"
        elif unknown:
            left[name] = f"the model has no {unknown[0]}" + (f" ({len(unknown)} such)" if len(unknown) > 1 else "")
        else:
            problems += [
                f"expected {key} of shape {tuple(target[name][key].shape)}, got {tuple(value.shape)}"
                for key, value in weights.items()
                if value.shape != target[name][key].shape
            ]
            taken[name] = weights
        if is_chosen and name in left:
            problems.append(f"expected {name} to fit: {left[name]}")
    if not taken:
        problems.append(f"expected components that fit the model, {sorted(target)}, got {sorted(source)}")
    raise_problems("init_from (init_components=[…] takes some components only)", problems)
    return taken, left


def parts_of(components: Mapping[str, Mapping[str, Tensor]]) -> Parts:
    """The weights of components by part: what belongs to one modality is a part of its own."""
    parts: Parts = {}
    for component, weights in components.items():
        for key, value in weights.items():
            modality = key.partition(".")[0]
            by_modality = component in ("projection", "layer_sum")
            name = f"{component}.{modality}" if by_modality else component
            parts.setdefault(name, {})[f"{component}.{key}"] = value
    return parts


def _component(name: str) -> str:
    return name.partition(".")[0]


def _overlap(first: str, second: str) -> bool:
    """Whether one of two parts is the other or belongs to it."""
    return _is_of(first, second) or _is_of(second, first)


def _is_of(name: str, whole: str) -> bool:
    """Whether a part is `whole` or belongs to it."""
    return name == whole or name.startswith(f"{whole}.")
