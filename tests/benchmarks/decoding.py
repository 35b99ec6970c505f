"""Short clips decoded by a process of its own against the same decoding in this process."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from emorec.media.decoding_process import DecodingProcesses
from emorec.media.sampling import decode_frames
from emorec.media.sound import decode_sound
from emorec.media.video_track import KEPT
from tests.benchmarks.figure import Figure, interleaved, seconds
from tests.conftest import tone
from tests.media.clips import numbered, write_clip

CLIPS = KEPT + 4  # more than are not read again
WHOLE: dict[str, Any] = {"start": None, "end": None}
PICTURES: dict[str, Any] = {**WHOLE, "count": 16, "size": 224, "crop": None, "reader": "av"}


def decoding_process(root: Path, *, rounds: int = 7) -> Figure:
    """Reads 16 frames of 224 pixels and the sound of clips of 2 s, 640 by 480."""
    root.mkdir(parents=True, exist_ok=True)
    sound = np.stack([tone(2.0, rate=48_000)] * 2)
    first = write_clip(root / "0.mp4", numbered(24, 480, 640), rate=12, sound=sound, sound_rate=48_000, layout="stereo")
    paths = [first, *(Path(shutil.copyfile(first, root / f"{number}.mp4")) for number in range(1, CLIPS))]

    with DecodingProcesses() as processes:

        def by_a_process() -> None:
            for path in paths:
                processes.frames(path, **PICTURES)
                processes.sound(path, **WHOLE, maximum_seconds=60.0)

        def here() -> None:
            for path in paths:
                decode_frames(path, **PICTURES)
                decode_sound(path, None, None, 60.0)

        own, peer = interleaved(lambda: seconds(by_a_process), lambda: seconds(here), rounds=rounds)
    note = f"{1000 * own / CLIPS:.1f} ms a clip against {1000 * peer / CLIPS:.1f}"
    return Figure("decoding_process_vs_here", own / peer, "ratio", "<= 1.15", note)
