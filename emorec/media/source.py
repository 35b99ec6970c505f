"""What an encoder will read for one utterance."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, Protocol

from numpy.typing import NDArray

from emorec.errors import UserError, first_line
from emorec.media.augmentation import Augmentation
from emorec.storage.digests import digest_of
from emorec.storage.regular_files import open_regular, require_regular

if TYPE_CHECKING:
    from emorec.media.decoding_process import DecodingProcesses

Reader = Literal["decord", "av"]  # of videos

DECODER = 2  # is counted up when a file of sound or video is decoded to something else; features are then made anew
MICROSECONDS = 1_000_000  # in a second
BLOCK = 1 << 18  # bytes that FFmpeg reads at once
# FFmpeg's names of formats that hold their media. Playlists and scripts (hls, concat, dash, sdp, …) name other files.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,av1,avi,avs2,avs3,caf,cavsvideo,dirac,dnxhd,dts,dtshd,dv,eac3,"
    "flac,flv,g722,g723_1,g729,gif,gsm,gxf,h261,h263,h264,hevc,ivf,live_flv,loas,m4v,matroska,webm,mjpeg,mlp,mov,mp4,"
    "mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mxf,nut,nsv,obu,ogg,oma,rm,shn,smjpeg,sox,spdif,tak,truehd,tta,vc1,voc,vvc,w64,"
    "wav,wtv,wv,xwma,yuv4mpegpipe"
)
FORMAT_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
WRAPPED = 1 << 31  # the last packet of Vorbis may end before it begins: a negative duration, read as an unsigned one
GUESS_TIMES = 1  # FFmpeg's flag "genpts", which PyAV sets and FFmpeg does not


class MediaError(Exception):
    """The content of a source cannot be used: empty, truncated, silent, not a number, too short, not decodable.

    A file that is missing or may not be read is an `OSError`: that can change without the content changing.
    """


class UnfinishedDecodingError(MediaError):
    """Decoding a source takes too long or too much memory, or crashes: on another day it may not."""


class Change(Protocol):
    """What is done to decoded media before they are encoded, to see what a model makes of worse ones.

    Sound has the rate of the encoder by then, and pictures their size.
    """

    @property
    def key(self) -> str:
        """Identifies the change, with all that it depends on but the media."""

    def __call__(self, media: NDArray[Any], rate: int) -> NDArray[Any]:
        """The changed media, of the same type: sound (samples,) at a rate in Hz, or frames (N, H, W, 3) with rate 0."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an encoder will read.

    Attributes:
        modality: "text", "audio" or "video".
        path: the file to decode; `None` for text.
        text: the transcript; `None` for audio and video.
        start: seconds on the file's clock (`clock_start`); `None` for its start.
        end: seconds on the file's clock; `None` for its end.
        crop: "left" or "right" half of the picture; `None` for all of it.
        prompt: template around the text.
        context: earlier turns read with the text, oldest first.
        view: number of the augmented view; 0 for the source as it is.
        change: what is done to the decoded media; `None` for nothing.
        processes: which decode it, `None` for those that are shared; they do not count in its key.
    """

    modality: str
    path: Path | None = None
    text: str | None = None
    start: float | None = None
    end: float | None = None
    crop: str | None = None
    prompt: str | None = None
    context: tuple[str, ...] = ()
    view: int = 0
    change: Change | None = None
    processes: "DecodingProcesses | None" = field(default=None, compare=False, repr=False)

    @property
    def segment(self) -> tuple[float | None, float | None]:
        """Start and end, seconds."""
        return self.start, self.end

    def key(self, file_digest: Callable[[Path], str]) -> str:
        """sha256 of the source, 64 hex digits. `file_digest` of the file's content counts, its path does not.

        Raises:
            OSError: the file is missing or cannot be read.
        """
        identity = {name: value for name, value in vars(self).items() if name not in ("path", "processes", "change")}
        if self.change is not None:
            identity["change"] = self.change.key
        identity["content"] = None
        if self.path is not None:
            require_regular(self.path)
            identity |= {"content": file_digest(self.path), "decoder": DECODER}
        return digest_of(identity)


@dataclass(frozen=True, kw_only=True)
class MediaSettings:
    """How media are read; every field of a subclass counts in a feature's identity, unless it is null.

    Class attributes:
        where: key of the settings in the config, for errors.

    Attributes:
        augmentation: how augmented views differ from the source; counts in the identity of views only.
    """

    where: ClassVar[str] = "encoder.media"
    augmentation: Augmentation | None = None

    def identity(self, *, augmented: bool = False) -> dict[str, Any]:
        """What identifies the features of a source, or of an augmented view of it.

        Fields that are null are left out, so that a new field does not change the features of those who do not use it.
        """
        own = {name: value for name, value in asdict(self).items() if value is not None and name != "augmentation"}
        if augmented and self.augmentation is not None:
            own["augmentation"] = self.augmentation.identity()
        return own

    def check_views(self, views: int, where: str, *, spectrogram: bool = False) -> None:
        """Checks that an encoder, `where` in the config, can make augmented views that differ from the source.

        Raises:
            UserError: there are views and `augmentation` changes nothing, or asks for masks without a spectrogram.
        """
        if views == 0:
            return
        if self.augmentation is None or not self.augmentation.is_set:
            raise UserError(
                f"expected {self.where}.augmentation to say how views differ, as {where}.views={views}, "
                f"got {self.augmentation!r}"
            )
        if self.augmentation.masks_frames and not spectrogram:
            raise UserError(
                f"expected no time_masks and no frequency_masks in {self.where}.augmentation, as {where} has no "
                f"spectrogram to mask, got {self.augmentation!r}"
            )


def read_head(path: Path) -> bytes:
    """The first 12 bytes of a file.

    Raises:
        MediaError: the file is empty.
        OSError: the file is missing, may not be read, or is not a regular file.
    """
    with open_regular(path) as stream:
        head = stream.read(12)
    if not head:
        raise MediaError("the file is empty")
    return head


class _File:
    """What FFmpeg reads of an open file: as many bytes as it has now."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.name = str(path)  # its suffix helps FFmpeg to guess the format
        self._stream = stream
        self._size = os.fstat(stream.fileno()).st_size

    def read(self, size: int) -> bytes:
        return self._stream.read(max(0, min(size, self._size - self._stream.tell())))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            return self._stream.seek(self._size + offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def reason_of(error: Exception) -> str:
    """The first line of a decoder's error, without FFmpeg's prefix and the name of the file."""
    message = getattr(error, "strerror", None) or first_line(error)
    return re.sub(r"^\[[^]]*\]\s*\S*:\s*", "", message)[:200]


@contextmanager
def _ffmpeg_errors(failure: Callable[[str], Exception]) -> Iterator[None]:
    import av

    try:
        yield
    except av.error.MemoryError:
        raise
    except av.FFmpegError as error:
        raise failure(reason_of(error)) from error


@contextmanager
def open_container(path: Path, failure: Callable[[str], Exception]) -> Iterator[Any]:
    """Opens a file with PyAV; errors of FFmpeg within the block are raised as `failure(reason)`.

    FFmpeg gets the open file and nothing else: it can open no other file and no URL, whatever the file names.

    Raises:
        OSError: the file is missing, may not be read, or is not a regular file.
    """
    import av

    with open_regular(path) as stream, _ffmpeg_errors(failure):
        file = _File(stream, path)
        try:
            container = av.open(
                file, container_options=FORMAT_OPTIONS, metadata_errors="replace", buffer_size=BLOCK, io_open=_refuse
            )
        except av.ArgumentError as error:
            raise failure("its format is not one that holds sound or video itself") from error
        with container:
            container.flags &= ~GUESS_TIMES
            yield container


def _refuse(url: str, *_: Any) -> Any:
    raise MediaError(f"expected a file that holds its media, got one that refers to {url!r}")


def packets_end(container: Any) -> float:
    """When the last packet of an open file ends, seconds on the file's clock; its packets are read."""
    return max(map(_packet_end, container.demux()), default=0.0) - clock_start(container)


def _packet_end(packet: Any) -> float:
    """Seconds on the clocks of the tracks; 0 for the last packet, which is empty."""
    time, duration = packet.dts if packet.pts is None else packet.pts, packet.duration or 0
    if duration >= WRAPPED:
        duration -= 2 * WRAPPED
    return 0.0 if time is None else float((time + duration) * packet.time_base)


def clock_start(container: Any) -> float:
    """Time 0 of an open file, seconds on its tracks' own clocks: that of the first sound or picture in it.

    The start and the end of an utterance count from here, in all tracks of a file.
    """
    return (container.start_time or 0) / MICROSECONDS
