"""How far the interpolations of a config unfold: forty lines of `${a}${a}` would fill any memory."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from emorec.errors import UserError

MOST_VALUES = 100_000
REFERENCE = re.compile(r"\$\{\s*([\w.\[\]]+)\s*\}|\boc\.(?:select|dict\.keys|dict\.values)\s*:\s*([\w.\[\]]+)")


def check_interpolations(values: Any) -> None:
    """Refuses a config, as plain data with its interpolations, whose values refer to too many others.

    Raises:
        UserError: names a key.
    """
    texts = dict(_texts(values, ()))
    below = defaultdict(list)  # {path of a node: the paths of the texts in it}
    for path in texts:
        for length in range(len(path) + 1):
            below[path[:length]].append(path)
    counts: dict[tuple[str, ...], int] = {}

    def count(path: tuple[str, ...]) -> int:
        """The number of values that a node unfolds to."""
        if path not in counts:
            counts[path] = 1  # a circle of references is refused by OmegaConf
            inside = below.get(path, ())
            counts[path] += sum(count(target) for other in inside for target in _targets(texts[other], other))
            if counts[path] > MOST_VALUES:
                raise UserError(f"{'.'.join(path)}: expected interpolations of at most {MOST_VALUES} values, got more")
        return counts[path]

    for path in texts:
        count(path)


def _texts(node: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    """(path of keys, text) of each text with an interpolation."""
    if isinstance(node, Mapping | list):
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        return [found for key, value in items for found in _texts(value, (*path, str(key)))]
    return [(path, node)] if isinstance(node, str) and "${" in node else []


def _targets(text: str, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The paths of keys that a text refers to; `path` is its own."""
    targets = []
    for match in REFERENCE.finditer(text):
        reference = (match[1] or match[2]).replace("[", ".").replace("]", "")
        name = reference.lstrip(".")
        up = len(reference) - len(name)
        targets.append((*path[: max(0, len(path) - up)], *name.split(".")) if up else tuple(name.split(".")))
    return targets
