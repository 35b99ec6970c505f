"""The streams of random numbers of an utterance, one for each thing that is drawn."""

from collections.abc import Callable
from enum import IntEnum, auto

from torch import Tensor

# (values (N, T, I), lengths (N,), draw (N,)) -> (augmented values, their lengths)
Augment = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Stream(IntEnum):
    """Numbers of streams: to add one in the middle changes what the later ones draw."""

    SPEED = auto()
    SPEED_CHOICE = auto()
    REVERBERATION = auto()
    REVERBERATION_CHOICE = auto()
    ROOM = auto()
    NOISE = auto()
    NOISE_CHOICE = auto()
    NOISE_COLOUR = auto()
    NOISE_LEVEL = auto()
    GAIN = auto()
    GAIN_CHOICE = auto()
    CROP = auto()
    CROP_START = auto()
    SHIFT = auto()
    TIME_MASKS = auto()
    FREQUENCY_MASKS = auto()
    FLIP = auto()
    COLOURS = auto()
    PICTURE_CROP = auto()
    DROPPED_FRAMES = auto()
    TOKENS = auto()
    MIXUP = auto()
    MODALITIES = auto()
    STRETCH = auto()
    FREQUENCY_SHIFT = auto()
