"""What loggers share: the config without this machine's folders, and confusion matrices as images."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emorec.config.keys import LOCATIONS, OPERATIONAL
from emorec.runs.checkpoint_store import RunRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def tracking_name(record: RunRecord) -> str:
    """The name of a run in a tracker: its id, with `-r<n>` after it restarted from scratch for the n-th time."""
    return f"{record.run_id}-r{record.restarts}" if record.restarts else record.run_id


def published_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved config that is sent to a tracking server: what defines the result, without this machine's
    folders. Operational keys are left out; of an absolute path only the last name is kept."""
    return {key: _without_folders(value) for key, value in config.items() if key not in OPERATIONAL}


def _without_folders(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_folders(value) for key, value in node.items() if key not in LOCATIONS}
    if isinstance(node, list):
        return [_without_folders(item) for item in node]
    if isinstance(node, str) and Path(node).is_absolute():
        return Path(node).name
    return node


def confusion_images(metrics: Mapping[str, Any]) -> "dict[str, NDArray[np.uint8]]":
    """{`<split>/confusion`: (height, width, 3)} of the splits that have a confusion matrix."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from emorec.runs.confusion_figure import confusion_figure

    images = {}
    for key, counts in metrics.items():
        if key.endswith("/confusion"):
            canvas = FigureCanvasAgg(confusion_figure(counts, metrics["labels"]))
            canvas.draw()
            images[key] = np.array(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3]
    return images
