"""What a report shows of a run beside its results, where its corpus and its features can be reached."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emorec.datasets.utterance import Utterance
from emorec.reporting.aggregate import Run
from emorec.reporting.figures import Picture, projection_picture

Method = Literal["pca", "tsne", "none"]
MOST_POINTS = 3000  # of a projection
PERPLEXITY = 30.0  # of t-SNE, where there are three times as many points


@dataclass(frozen=True)
class Exploration:
    """The utterances and fused vectors of a run.

    Attributes:
        utterances: {id: utterance} of the whole corpus.
        vectors: (N, H) of utterances of all splits.
        columns: {"class", "speaker" or "split": (N,) name of each}.
    """

    utterances: Mapping[str, Utterance]
    vectors: NDArray[np.float32]
    columns: Mapping[str, Sequence[str]]

    def picture(self, method: Method) -> Picture | None:
        """The vectors in the plane, coloured by each column; `None` where there are too few, or none is asked for.

        Of many vectors a sample is drawn, the same each time.
        """
        count = len(self.vectors)
        if method == "none" or count < 4 or not np.isfinite(self.vectors).all():
            return None
        rows = np.random.default_rng(0).permutation(count)[:MOST_POINTS]
        columns = {title: [names[row] for row in rows] for title, names in self.columns.items()}
        if method == "pca":
            from sklearn.decomposition import PCA

            plane = PCA(2, svd_solver="full")
            places = plane.fit_transform(self.vectors[rows])
            return projection_picture(places, columns, method="PCA", shares=plane.explained_variance_ratio_.tolist())
        from sklearn.manifold import TSNE

        perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(self.vectors[rows])
        return projection_picture(places, columns, method="t-SNE")


Explore = Callable[[Run], Exploration | None]
