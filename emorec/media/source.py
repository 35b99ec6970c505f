"""What an encoder will read for one utterance."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from emorec.errors import UserError
from emorec.media.augmentation import Augmentation
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

    @property
    def segment(self) -> tuple[float | None, float | None]:
        """From when to when, in seconds."""
        return self.start, self.end

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
    """How media are read; every field of a subclass counts in a feature's identity, unless it is null.

    Class attributes:
        where: the settings' place in the config, for errors.

    Attributes:
        augmentation: how augmented views differ from the source; counts in the identity of views alone.
    """

    where: ClassVar[str] = "encoder.media"
    augmentation: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, given: "Mapping[str, Any] | MediaSettings | None", where: str) -> Self:
        """Settings from a config's node, for all fields that it does not give as they are by default.

        Raises:
            UserError: there is no such field, or a value does not fit its field.
        """
        if isinstance(given, cls):
            return given
        assert given is None or isinstance(given, Mapping)
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(given or {}) - set(known))
        if unknown:
            raise UserError(f"expected fields of {where} in {known}, got {unknown}")
        return cls(**(given or {}))

    @property
    def variation(self) -> Augmentation | None:
        """What `augmentation` says, checked."""
        return None

    def identity(self, *, augmented: bool = False) -> dict[str, Any]:
        """What counts of them for a source as it is, or for an augmented view of it.

        A field that is null asks for nothing and is left out: a new one leaves the features of those who do not use it.
        """
        own = {name: value for name, value in asdict(self).items() if value is not None and name != "augmentation"}
        variation = self.variation if augmented else None
        return own if variation is None else {**own, "augmentation": variation.identity()}

    def check_views(self, views: int, where: str, *, spectrogram: bool = False) -> None:
        """Checks that augmented views would differ from the source, in ways that the encoder can show.

        Args:
            views: how many of each utterance are asked for.
            where: the encoder's place in the config, for errors.
            spectrogram: whether the encoder computes a spectrogram that can be masked.

        Raises:
            UserError: views are asked for and `augmentation` says nothing, or asks for masks that cannot be shown.
        """
        if views == 0:
            return
        variation = self.variation
        if variation is None or not variation.is_set:
            raise UserError(
                f"expected {self.where}.augmentation to say how views differ, as {where}.views={views}, "
                f"got {self.augmentation!r}"
            )
        if variation.masks_frames and not spectrogram:
            raise UserError(
                f"expected no time_masks and no frequency_masks in {self.where}.augmentation, as {where} has no "
                f"spectrogram to mask, got {self.augmentation!r}"
            )
