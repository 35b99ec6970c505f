"""Whether there is space on a disk for what is going to be stored."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from emorec.encoders.encoder import Encoder
from emorec.errors import UserError
from emorec.media.source import MediaError, Source

SAMPLE = 8  # sources whose size is looked at


def check_space(folder: Path, encoder: Encoder, sources: Sequence[Source], *, title: str) -> None:
    """Estimates the size of what an encoder makes of the sources by a few of them.

    Args:
        folder: where it is going to be stored.
        encoder: is loaded here.
        sources: all that are computed.
        title: of the work, for the error.

    Raises:
        UserError: it is larger than the free space.
    """
    encoder.load()
    encoder.eval()
    sizes = []
    for source in sources[:: -(-len(sources) // SAMPLE)]:
        try:
            item = encoder.read(source)
        except (MediaError, OSError):
            continue  # extraction reports it
        with torch.inference_mode(), encoder.at_float32():  # not yet on the device that computes
            values, mask = encoder.encode(encoder.collate([item]))
        sizes.append(int(mask.sum()) * values.shape[2] * getattr(torch, encoder.dtype).itemsize)
    if not sizes:
        return
    needed, free = sum(sizes) / len(sizes) * len(sources), shutil.disk_usage(_present(folder)).free
    if needed > free:
        hint = "; inputs.keep=false decodes during training instead" if encoder.on_cpu else ""
        raise UserError(
            f"expected about {needed / 1e6:,.1f} MB of free space for the {title} of {len(sources)} utterances, got "
            f"{free / 1e6:,.1f} MB in {folder}{hint}"
        )


def _present(folder: Path) -> Path:
    """The folder, or where it does not exist yet the nearest one above it that does."""
    return folder if folder.exists() else _present(folder.parent)
