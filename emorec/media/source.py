"""What an encoder will read for one utterance."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emorec.storage.digests import digest_of


class MediaError(Exception):
    """The content of a source cannot be used: empty, truncated, silent, not a number, too short, not decodable.

    A file that is missing or may not be read is an `OSError`: that can change without the content changing.
    """


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an encoder will read, stated before it is read.

    Attributes:
        modality: "text", "audio" or "video".
        path: the file to decode; `None` for text.
        text: the transcript; `None` for audio and video.
        start: seconds into the file; `None` for its start.
        end: seconds into the file; `None` for its end.
        crop: side of the picture.
        prompt: what the text is wrapped in.
        context: earlier turns that are read with the text, oldest first.
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

    def key(self, file_digest: Callable[[Path], str]) -> str:
        """sha256 of the source, 64 hex digits: the file counts by its content, its path does not count.

        Args:
            file_digest: sha256 of a file's content.

        Raises:
            OSError: the file is missing or cannot be read.
        """
        identity: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "path"}
        identity["content"] = None if self.path is None else file_digest(self.path)
        return digest_of(identity)
