"""What trackers share: the config that others may see, the picture of a confusion matrix, and files for the group."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.config.keys import LOCATIONS, OPERATIONAL_KEYS
from emorec.storage.atomic import follow_folder_mode
from emorec.storage.folders import list_tree

DARK = 0.5  # of the row's share, from which the count is written in white


def published_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config is for others to see: what defines the result, without the places of this machine.

    Args:
        config: resolved, primitives only.

    Returns:
        The config less its operational keys; of an absolute path only the last name is left.
    """
    operational = {path[0] for path in OPERATIONAL_KEYS}
    return {key: _without_places(value) for key, value in config.items() if key not in operational}


def _without_places(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_places(value) for key, value in node.items() if key not in LOCATIONS}
    if isinstance(node, list):
        return [_without_places(item) for item in node]
    if isinstance(node, str) and Path(node).is_absolute():
        return Path(node).name
    return node


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers."""
    return {
        key: float(value) for key, value in metrics.items() if isinstance(value, int | float) and key.count("/") == 1
    }


def splits(metrics: Mapping[str, Any]) -> list[str]:
    """The splits that have a confusion matrix."""
    return [key.partition("/")[0] for key in metrics if key.endswith("/confusion")]


def confusion_picture(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> NDArray[np.uint8]:
    """Draws a confusion matrix: each row's shares in colour, counts in figures.

    Args:
        confusion: (C, C) counts, rows are targets.
        labels: (C,) names.

    Returns:
        (height, width, 3)
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # without pyplot: nothing outlives the picture
    from matplotlib.figure import Figure

    side = 2.0 + 0.6 * len(labels)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in confusion]
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, counts in enumerate(confusion):
        for column, count in enumerate(counts):
            colour = "white" if shares[row][column] > DARK else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("target")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3]


def share(folder: Path) -> None:
    """Gives a tracker's files the permission bits of the run's directory, whatever the umask of their writer was."""
    if not folder.is_dir():
        return
    mode = folder.parent.stat().st_mode & 0o7777
    folder.chmod(mode)
    for path in list_tree(folder):  # folders before their content, whose mode follows theirs
        with suppress(FileNotFoundError):  # removed in the meantime
            if path.is_dir() and not path.is_symlink():
                path.chmod(mode)
            elif not path.is_symlink():
                follow_folder_mode(path)
