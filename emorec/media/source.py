"""What an encoder will read for one utterance."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from emorec.errors import UserError
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


@dataclass(frozen=True, kw_only=True)
class MediaSettings:
    """How media are read; every field of a subclass counts in a feature's identity.

    Attributes:
        augmentation: how augmented views differ from the source; counts in the identity of views alone.
    """

    augmentation: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, given: "Mapping[str, Any] | MediaSettings | None", where: str) -> Self:
        """Settings from a config's node, for all fields that it does not give as they are by default.

        Raises:
            UserError: there is no such field.
        """
        if isinstance(given, cls):
            return given
        assert given is None or isinstance(given, Mapping)
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(given or {}) - set(known))
        if unknown:
            raise UserError(f"expected fields of {where} in {known}, got {unknown}")
        return cls(**(given or {}))

    def identity(self, *, augmented: bool = False) -> dict[str, Any]:
        """What counts of them for a source as it is, or for an augmented view of it."""
        own = asdict(self)
        return own if augmented else {name: value for name, value in own.items() if name != "augmentation"}
