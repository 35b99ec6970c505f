"""Hashed n-grams of a transcript: no vocabulary, no download."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from emorec.annotations import PositiveCount
from emorec.encoders.encoder import Training, UtteranceEncoder
from emorec.errors import UserError
from emorec.media.source import Source
from emorec.media.text import read_text


@dataclass(kw_only=True, eq=False)
class HashedNgrams(UtteranceEncoder):
    """Counts of n-grams in hashed bins, of length 1: (1, dim) (Weinberger et al. 2009, "Feature hashing").

    Args:
        dim: number of bins.
        analyzer: n-grams of "word"s, or of characters within words ("char_wb").
        shortest: words or characters of the shortest n-gram.
        longest: words or characters of the longest n-gram.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    dim: PositiveCount = 1024
    analyzer: Literal["word", "char_wb"] = "word"
    shortest: PositiveCount = 1
    longest: PositiveCount = 2

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        if self.longest < self.shortest:
            raise UserError(f"expected encoder.text.longest of at least shortest={self.shortest}, got {self.longest}")

    def settings(self) -> dict[str, Any]:
        processor = {"analyzer": self.analyzer, "shortest": self.shortest, "longest": self.longest, "bins": self.dim}
        return {"pooling": "sum", "processor": processor}

    def load(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._vectorizer: Any = HashingVectorizer(
            n_features=self.dim, analyzer=self.analyzer, ngram_range=(self.shortest, self.longest), dtype=np.float32
        )

    def features(self, source: Source) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._vectorizer.transform([read_text(source)]).toarray()
        return values
