"""What an encoder will read for one utterance."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from emorec.errors import UserError, first_line
from emorec.media.augmentation import Augmentation
from emorec.storage.digests import digest_of

Reader = Literal["decord", "av"]  # of videos and of their sound tracks


class MediaError(Exception):
    """The content of a source cannot be used: empty, truncated, silent, not a number, too short, not decodable.

    A file that is missing or may not be read is an `OSError`: that can change without the content changing.
    """


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an encoder will read.

    Attributes:
        modality: "text", "audio" or "video".
        path: the file to decode; `None` for text.
        text: the transcript; `None` for audio and video.
        start: seconds into the file; `None` for its start.
        end: seconds into the file; `None` for its end.
        crop: "left" or "right" half of the picture; `None` for all of it.
        prompt: template around the text.
        context: earlier turns read with the text, oldest first.
        view: number of the augmented view; 0 for the source as it is.
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

    @property
    def segment(self) -> tuple[float | None, float | None]:
        """Start and end, seconds."""
        return self.start, self.end

    def key(self, file_digest: Callable[[Path], str]) -> str:
        """sha256 of the source, 64 hex digits. `file_digest` of the file's content counts, its path does not.

        Raises:
            OSError: the file is missing or cannot be read.
        """
        identity: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "path"}
        identity["content"] = None if self.path is None else file_digest(self.path)
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
        OSError: the file is missing or may not be read.
    """
    with path.open("rb") as stream:
        head = stream.read(12)
    if not head:
        raise MediaError("the file is empty")
    return head


def reason_of(error: Exception) -> str:
    """The first line of a decoder's error, without FFmpeg's prefix."""
    return re.sub(r"^\[[^]]*\]\s*\S*:\s*", "", first_line(error))[:200]


@contextmanager
def open_container(path: Path, failure: Callable[[str], Exception]) -> Iterator[Any]:
    """Opens a file with PyAV; errors of PyAV within the block are raised as `failure(reason)`."""
    import av

    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise failure(reason_of(error)) from error
