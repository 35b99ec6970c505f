"""Numbers of the words of a text, by a vocabulary that is learned from the training split."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emorec.annotations import PositiveCount
from emorec.encoders.below_cut import as_rows
from emorec.encoders.encoder import Training, UtteranceEncoder
from emorec.media.source import MediaError, Source
from emorec.media.text import read_text
from emorec.storage.digests import digest_of

PADDING, UNKNOWN = 0, 1
FIRST = 2  # number of the first word
# a sign of a script without spaces, a word with its apostrophes, or one mark
_CJK = "\u3040-\u30ff\u3400-\u9fff"
TOKEN_PATTERN = rf"[{_CJK}]|(?:(?![{_CJK}])\w)+(?:'(?:(?![{_CJK}])\w)+)*|[^\w\s]"


def tokens_of(text: str) -> list[str]:
    """The words, in lower case, and the marks of a text; each Chinese or Japanese sign is a word."""
    return re.findall(TOKEN_PATTERN, text.lower().replace("’", "'"))


@dataclass(kw_only=True, eq=False)
class WordNumbers(UtteranceEncoder):
    """Numbers (T, 1) of words as int32: 0 is padding, 1 any word that is not in the vocabulary.

    Args:
        minimum_count: rarer words of the training split are left out of the vocabulary.
        max_length: longer texts are cut.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    minimum_count: PositiveCount = 2
    max_length: PositiveCount = 128
    words: tuple[str, ...] | None = field(default=None, init=False, repr=False)  # of the vocabulary, if it is learned

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        self.dtype = "int32"  # type: ignore[assignment]

    @property
    def dim(self) -> int:
        return 1

    @property
    def needs_fit(self) -> bool:
        return self.words is None

    @property
    def state(self) -> str | None:
        return None if self.words is None else digest_of(self.words)

    def settings(self) -> dict[str, Any]:
        return {"processor": {"max_length": self.max_length}, "state": self.state}

    def fit(self, sources: Sequence[Source]) -> None:
        counts: Counter[str] = Counter()
        for source in sources:
            with suppress(MediaError):  # such a text has no words, and extraction reports it
                counts.update(tokens_of(read_text(source)))
        kept = [(-count, word) for word, count in counts.items() if count >= self.minimum_count]
        self.words = tuple(word for _, word in sorted(kept))

    def load(self) -> None:
        assert self.words is not None
        self._numbers = {word: number for number, word in enumerate(self.words, start=FIRST)}

    def as_part(self) -> None:
        return None

    def features(self, source: Source) -> NDArray[Any]:
        numbers = [self._numbers.get(word, UNKNOWN) for word in tokens_of(read_text(source))[: self.max_length]]
        return as_rows(np.array(numbers), np.int32)


def packed_words(words: Sequence[str]) -> Tensor:
    """Words as a tensor of bytes, to be kept beside weights."""
    return torch.tensor(list("\n".join(words).encode()), dtype=torch.uint8)


def unpacked_words(content: Tensor) -> tuple[str, ...]:
    """The words of `packed_words`."""
    text = bytes(content.tolist()).decode()
    return tuple(text.split("\n")) if text else ()
