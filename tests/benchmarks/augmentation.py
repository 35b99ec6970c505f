"""What augmentation adds to a training step."""

import statistics
import time
from functools import partial

import torch

from emorec.augmentation.spectrogram import SpectrogramAugmentation
from emorec.augmentation.streams import Augment
from emorec.augmentation.waveform import WaveformAugmentation
from emorec.draws import keys_of
from emorec.encoders.crnn import Crnn
from emorec.encoders.trained import TrainedPart
from emorec.encoders.waveform import LogMelFront
from tests.benchmarks.figure import Figure

BATCH, FRAMES, BANDS, RATE, HOP = 16, 300, 64, 16_000, 160
SPECTROGRAM = SpectrogramAugmentation(shift=0.2, time_masks=2, frequency_masks=2)  # no crop: it shortens the step
WAVEFORM = WaveformAugmentation(speed=(0.9, 1.1), reverberation=(0.2, 0.6), noise_snr=(5, 30), gain=(-6, 6))


def _step(part: TrainedPart, augment: Augment | None, augment_sound: Augment | None, *, from_sound: bool) -> float:
    """Seconds of this process's cores for one step of a network of 3 s of sound, from waveforms or log mel bands."""
    torch.manual_seed(0)
    front = LogMelFront(rate=RATE, bands=BANDS, window=400, hop=HOP, augment=augment_sound).train()
    samples = FRAMES * HOP if from_sound else FRAMES
    values = torch.randn(BATCH, samples, 1 if from_sound else BANDS)
    lengths = torch.randint(samples // 2, samples + 1, (BATCH,))
    mask, draw = torch.arange(samples) < lengths[:, None], keys_of([str(number) for number in range(BATCH)])
    part.augment = augment
    started = time.process_time()
    if from_sound:
        values, mask = front(values, mask, draw)
    part(values, mask, torch.ones(BATCH, dtype=torch.bool), draw)[0].square().mean().backward()
    return time.process_time() - started


def augmentation(*, rounds: int = 9) -> list[Figure]:
    """A step with all augmentations of log mel bands, and with all of sound as well, against one without."""
    part = Crnn(bands=BANDS).trained().train()
    sides = {
        "log_mel_augmentation": (SPECTROGRAM.vary, None, False),
        "sound_augmentation": (SPECTROGRAM.vary, partial(WAVEFORM.vary, rate=RATE), True),
    }
    figures = []
    for name, (augment, sound, from_sound) in sides.items():
        pairs = [
            (
                _step(part, augment, sound, from_sound=from_sound),
                _step(part, None, None, from_sound=from_sound),
            )
            for _ in range(rounds + 1)
        ][1:]
        own, peer = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(with_it / without for with_it, without in pairs)
        note = f"{own * 1e3:.0f} ms against {peer * 1e3:.0f}"
        figures.append(Figure(name, ratio, "ratio", "<= 1.10" if not from_sound else "<= 1.50", note))
    return figures
