"""Task and loss of a run: a loss that reads no labels has a task of its own, and `loss=auto` fits the task."""

from dataclasses import replace

from emorec.config.composition import Composed
from emorec.config.locations import config_folder
from emorec.config.schema import TrainConfig
from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.utterance import UNLABELLED, Task
from emorec.errors import UserError
from emorec.losses.loss import ViewLoss
from emorec.storage.documents import read_yaml

AUTOMATIC, CLASSIFICATION = "auto", "cross_entropy"  # choices of the group `loss`; both compose to the same node
REGRESSION = {"ccc": "ccc", "pearson": "ccc", "mae": "mae"}  # {monitor of a task: its loss}
OTHERWISE = "mse"


def task_of(config: TrainConfig, corpus: Corpus, manifest: Manifest) -> Task:
    """The task that the corpus is configured for, or `UNLABELLED` where the loss reads no labels."""
    return UNLABELLED if issubclass(config.loss.target, ViewLoss) else corpus.chosen_task(manifest)


def with_loss_of(composed: Composed[TrainConfig], task: Task) -> Composed[TrainConfig]:
    """The config with the loss that `loss=auto` stands for, so that the run is that of naming the loss.

    Raises:
        UserError: the config sets arguments that this loss does not take.
    """
    if composed.choices.get("loss") != AUTOMATIC:
        return composed
    node, default = composed.values["loss"], read_yaml(config_folder() / "loss" / f"{CLASSIFICATION}.yaml")
    if node["_target_"] != default["_target_"]:  # the config names a class itself
        return composed
    if task.kind == "classification":
        return replace(composed, choices={**composed.choices, "loss": CLASSIFICATION})
    name = REGRESSION.get(task.monitor, OTHERWISE)
    changed = [f"loss.{key}" for key, value in node.items() if value != default.get(key)]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: expected no argument of a loss for classes, since the task {task.name!r} is a "
            f"{task.kind}; loss=auto is loss={name} for it, and loss=… names another"
        )
    node = read_yaml(config_folder() / "loss" / f"{name}.yaml")
    return replace(composed.with_values(loss=node), choices={**composed.choices, "loss": name})
