"""Which keys of a config identify a run, and walks over the leaves of a config."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

# What may differ between two starts of the same run: whole groups of keys, and all of it as paths of keys.
OPERATIONAL = frozenset({"paths", "extraction", "features", "inputs", "progress", "logger", "launcher", "sweep"})
OPERATIONAL |= {"checkpoint", "metric", "tags", "notes", "test", "on_running", "rerun"}
OPERATIONAL_KEYS = (*((key,) for key in sorted(OPERATIONAL)), ("trainer", "threads"))
# of a dataset, or of each of several: where a corpus lies, and how large a table may be, does not count
LOCATIONS = ("root", "table", "largest_table")
LOCAL_KEYS = ("model", "revision", "path", "largest_array")  # of an encoder that reads a local folder or file
GROUPED_KEYS = (("seed",), ("dataset", "fold"))  # differ between the runs of a group

# Keys of an encoder by what they need to matter: `training` other than frozen, and LoRA.
TRAINING_KEYS, LORA_KEYS = ("train_from", "train_front"), ("lora",)
# Keys of a model that matter with one way of selecting epochs only.
SELECTION_KEYS = {"smoothed": "smoothed_over", "average_last_k": "average_last"}
# Keys of training by gradients, which change nothing with a classical head.
OF_GRADIENTS: tuple[str, ...] = (
    "fusion",
    "loss",
    "optimizer",
    "scheduler",
    "trainer",
    "batch_size",
    "batch_size_per",
    "calibrate",
)
OF_GRADIENTS += ("group_by_length", "group_by_speaker", "task_weights")
KEPT_OF_MODEL = "normalisation"
# Keys that older runs did not have: they count once they differ from what those runs did.
ADDED_KEYS: Mapping[tuple[str, ...], Any] = {
    ("tasks",): None,
    ("head",): None,
    ("task_weights",): {},
    ("distillation",): {"teacher": None},
    ("init_from",): None,
    ("init_components",): None,
    ("group_by_length",): False,
    ("calibrate",): False,
    ("group_by_speaker",): None,
    ("model", "selection"): "best",
    ("model", "mixup"): 0.0,
    ("model", "fused_normalisation"): "none",
    ("model", "encoded_normalisation"): "none",
    ("model", "modality_dropout"): 0.0,
    ("fusion", "over"): "modality",
    ("loss", "logit_adjustment"): 0.0,
    ("loss", "targets"): "labels",
    ("context", "speakers"): "dialogue",
    ("optimizer", "encoder_lr"): None,
    ("optimizer", "layer_decay"): 1.0,
    ("trainer", "accumulate"): 1,
    **{("encoder", modality, "augmentation"): None for modality in ("text", "audio", "video")},
    ("encoder", "audio", "inputs"): "log_mel",
    ("encoder", "text", "question"): None,
    ("trainer", "ema"): None,
    **{("encoder", modality, "window"): "padded" for modality in ("text", "audio", "video")},
}


def without_unused(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config less the keys that change nothing in it: those that another key switches off, and new ones that are left
    alone."""
    kept = _without_switched_off(copy.deepcopy(dict(config)))
    for (*path, last), default in ADDED_KEYS.items():
        node: Any = kept
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.get(last, default) == default:
            node.pop(last, None)
    return kept


def _without_switched_off(kept: dict[str, Any]) -> dict[str, Any]:
    """Removes the keys of training a frozen encoder, of gradients beside a classical head, of other ways to select
    epochs, and of starting from no run."""
    for node in kept.get("encoder", {}).values():
        if isinstance(node, dict):
            mode = node.get("training", "frozen")
            unused = (*(TRAINING_KEYS if mode == "frozen" else ()), *(() if mode == "lora" else LORA_KEYS))
            for key in (*unused, "gradient_checkpointing"):
                node.pop(key, None)
    model = kept.get("model", {})
    if kept.get("head") is not None:
        kept["model"] = model = {key: value for key, value in model.items() if key == KEPT_OF_MODEL}
        for key in OF_GRADIENTS:
            kept.pop(key, None)
    for selection, key in SELECTION_KEYS.items():
        if model.get("selection") != selection:
            model.pop(key, None)
    if kept.get("init_from") is None:
        kept.pop("init_components", None)
    return kept


def is_unused(key: str, config: Mapping[str, Any]) -> bool:
    """Whether a dotted key changes nothing beside the classical head of a config {dotted key: value}."""
    root, _, name = key.partition(".")
    return "head._target_" in config and (root in OF_GRADIENTS or (root == "model" and name != KEPT_OF_MODEL))


def is_location(key: str) -> bool:
    """Whether a dotted key says where a corpus lies."""
    return key.startswith("dataset.") and key.rpartition(".")[2] in LOCATIONS


def without_locations(node: Any) -> Any:
    """A dataset's node, or one with several of them, less the keys that say where a corpus lies."""
    if not isinstance(node, Mapping):
        return node
    return {key: without_locations(value) for key, value in node.items() if key not in LOCATIONS}


def leaves(node: Any, path: tuple[str, ...] = (), *, into_lists: bool = False) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path of keys, value) of each value of nested mappings; an empty mapping is a value.

    Args:
        node: plain data.
        path: of the node.
        into_lists: whether each item of a list counts by itself, under the list's path.
    """
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, str(key)), into_lists=into_lists)
    elif into_lists and isinstance(node, list | tuple):
        for item in node:
            yield from leaves(item, path, into_lists=True)
    else:
        yield path, node


def flat(node: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of nested mappings."""
    return {".".join(path): value for path, value in leaves(node)}


def nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Nested mappings from {path of keys: value}."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        node = result
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return result
