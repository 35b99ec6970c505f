"""NT-Xent, the normalised temperature-scaled cross-entropy of SimCLR."""

import torch
from torch import Tensor, distributed
from torch.nn.functional import cross_entropy, normalize

from emorec.annotations import Positive, PositiveCount
from emorec.losses.loss import ViewLoss


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over 2 B embeddings of -log(exp(s / temperature) / sum of exp(s' / temperature)).

    s is the cosine of an embedding and that of the utterance's other view, s' that of the embedding and each of the
    2 B - 1 others (Chen et al. 2020, "A simple framework for contrastive learning of visual representations",
    arXiv 2002.05709, equation 1). It lies between 0, where B = 1, and log(2 B - 1) at a high temperature, where all
    embeddings are alike.

    Args:
        first: (B, D) embeddings of one view of each utterance.
        second: (B, D) of the other view.
        temperature: above 0; the lower it is, the more the most similar utterances count.
    """
    with torch.autocast(first.device.type, enabled=False):
        embeddings = normalize(torch.cat([first, second]), dim=1)  # (2 B, D)
        similarity = embeddings @ embeddings.T / temperature  # (2 B, 2 B)
        itself = torch.eye(len(embeddings), dtype=torch.bool, device=first.device)
        other = torch.arange(len(embeddings), device=first.device).roll(len(first))  # (2 B,)
        return cross_entropy(similarity.masked_fill(itself, -torch.inf), other)


class NtXent(ViewLoss):
    """NT-Xent over the views of a batch; with several ranks, in training, over those of all ranks.

    In evaluation, where ranks may have different numbers of batches, each rank compares its own utterances.

    Args:
        temperature: see `nt_xent`.
        dim: D, the width of the embeddings that the projection head makes of the fused vector.
    """

    def __init__(
        self,
        *,
        task: str,
        temperature: Positive = 0.1,
        dim: PositiveCount = 128,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, dim=dim, weights=weights)
        self.temperature = temperature

    def compare(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        if self.training:
            first, second = _of_all_ranks(first), _of_all_ranks(second)
        return {"nt_xent": nt_xent(first, second, self.temperature)}


def _of_all_ranks(values: Tensor) -> Tensor:
    """Rows (B, D) of each rank one after the other, through which gradients flow back to their rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(values))  # type: ignore[no-untyped-call]
