"""A segment of a long sound track against a full decoding of the track by PyAV, without conversion."""

from pathlib import Path

import av

from emorec.media.audio import AudioSettings, read_audio
from emorec.media.source import Source
from tests.benchmarks.figure import Figure, interleaved, seconds
from tests.media.test_tracks import long_track

LENGTH = 1800  # seconds


def segment_of_a_track(root: Path, *, rounds: int = 5) -> Figure:
    """Reads 3 s near the end of half an hour of AAC in an .m4a."""
    root.mkdir(parents=True, exist_ok=True)
    path = long_track(root / "long.m4a", LENGTH)
    source = Source(modality="audio", path=path, start=LENGTH - 100.0, end=LENGTH - 97.0)

    def whole() -> None:
        with av.open(str(path)) as container:
            for _ in container.decode(audio=0):
                pass

    own, peer = interleaved(
        lambda: seconds(lambda: read_audio(source, AudioSettings())), lambda: seconds(whole), rounds=rounds
    )
    note = f"{1000 * own:.0f} ms against {peer:.2f} s"
    return Figure("segment_vs_whole_track", own / peer, "ratio", "<= 0.1", note)
