"""What cameras, light and networks do to pictures.

Each function takes the frames (N, H, W, 3) that an encoder would see, uint8, 0 for the rate, and a generator of random
numbers, and returns frames of the same shape. Faces are cut out before.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
GREY = 127


def dropped_frames(frames: Frames, rate: int, generator: Generator, *, share: float) -> Frames:
    """So many frames do not arrive: the last one that did is shown instead. The first one always arrives."""
    count = min(len(frames) - 1, round(share * len(frames)))
    if count < 1:
        return frames
    lost = 1 + generator.choice(len(frames) - 1, size=count, replace=False)
    shown = np.arange(len(frames))
    shown[lost] = 0
    return frames[np.maximum.accumulate(shown)]


def blur(frames: Frames, rate: int, generator: Generator, *, share: float) -> Frames:
    """Out of focus: a Gaussian whose standard deviation is a share of the picture's shorter side."""
    from scipy.ndimage import gaussian_filter

    deviation = share * min(frames.shape[1:3])
    blurred = gaussian_filter(frames.astype(np.float32), (0, deviation, deviation, 0), mode="nearest")
    rounded: Frames = np.round(blurred).clip(0, 255).astype(np.uint8)
    return rounded


def darkness(frames: Frames, rate: int, generator: Generator, *, factor: float) -> Frames:
    """Less light: all values times a factor below 1, in 8 bits."""
    return np.round(frames * factor).astype(np.uint8)


def compression(frames: Frames, rate: int, generator: Generator, *, quantiser: int) -> Frames:
    """Each frame as a JPEG with FFmpeg's quantiser, from 2 (best) to 31."""
    import av

    changed = []
    for picture in frames:
        height, width = picture.shape[:2]
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
        encoder.time_base = 1  # type: ignore[assignment]
        encoder.options = {"qmin": str(quantiser), "qmax": str(quantiser)}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        packets = [*encoder.encode(frame), *encoder.encode(None)]
        decoder = av.CodecContext.create("mjpeg", "r")
        decoded = [item for packet in packets for item in decoder.decode(packet)] + decoder.decode(None)
        changed.append(decoded[0].to_ndarray(format="rgb24"))
    return np.stack(changed)


def hidden_lower_half(frames: Frames, rate: int, generator: Generator) -> Frames:
    """The lower half of the picture is grey, as mouth and chin behind a mask where the picture is a face."""
    changed = frames.copy()
    changed[:, frames.shape[1] // 2 :] = GREY
    return changed
