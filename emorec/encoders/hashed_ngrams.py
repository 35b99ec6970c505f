"""Hashed n-grams of a transcript: no vocabulary, no download."""

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from emorec.encoders.encoder import StoredType, Training, UtteranceEncoder
from emorec.errors import check_all, choose
from emorec.media.fields import checked_count
from emorec.media.source import Source
from emorec.media.text import read_text

ANALYZERS = ("word", "char_wb")


class HashedNgrams(UtteranceEncoder):
    """Counts of n-grams in hashed bins, of length 1: (1, dim) (Weinberger et al. 2009, "Feature hashing").

    Args:
        dim: number of bins.
        analyzer: n-grams of "word"s, or of characters within words ("char_wb").
        shortest: words or characters of the shortest n-gram.
        longest: words or characters of the longest.
        training: "frozen".
        dtype: how features are stored.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        dim: int = 1024,
        analyzer: Literal["word", "char_wb"] = "word",
        shortest: int = 1,
        longest: int = 2,
        training: Training = "frozen",
        dtype: StoredType = "float32",
    ) -> None:
        super().__init__(training=training, dtype=dtype)
        where = "encoder.text"
        check_all(
            where,
            [
                lambda: checked_count(dim, f"{where}.dim", low=1),
                lambda: choose(dict.fromkeys(ANALYZERS), analyzer, f"{where}.analyzer"),
                lambda: checked_count(shortest, f"{where}.shortest", low=1),
                lambda: checked_count(longest, f"{where}.longest", low=shortest if isinstance(shortest, int) else 1),
            ],
        )
        self._dim = dim
        self.processor = {"analyzer": analyzer, "shortest": shortest, "longest": longest, "bins": dim}
        self._vectorizer: Any = None

    @property
    def dim(self) -> int:
        return self._dim

    def settings(self) -> dict[str, Any]:
        return {"pooling": "sum", "processor": self.processor}

    def load(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._vectorizer = HashingVectorizer(
            n_features=self.dim,
            analyzer=self.processor["analyzer"],
            ngram_range=(self.processor["shortest"], self.processor["longest"]),
            dtype=np.float32,
        )

    def features(self, source: Source) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._vectorizer.transform([read_text(source)]).toarray()
        return values
