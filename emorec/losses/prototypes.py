"""Contrastive losses with a prototype of each class: SPCL and APCL."""

from typing import Literal

import torch
from torch import Tensor

from emorec.annotations import NonNegative, Positive, PositiveCount
from emorec.errors import UserError
from emorec.losses.representation import RepresentationLoss, cosines, mean_where


def orthonormal(count: int, width: int) -> Tensor:
    """(count, width), random rows of norm 1 that are orthogonal to each other as far as there is room."""
    rows = torch.randn(max(count, width), width)
    return torch.nn.functional.normalize(torch.linalg.qr(rows[:width].T)[0].T.repeat(-(-count // width), 1)[:count])


def prototype_contrast(
    vectors: Tensor,
    target: Tensor,
    prototypes: Tensor,
    temperature: float,
    *,
    floor: float = 0.3,
    anchors: Literal["batch", "all"] = "batch",
) -> Tensor:
    """Mean over anchors of -log((1 / |P|) Σ_P exp(s / temperature) / Σ_{P and N} exp(s / temperature)).

    s is (1 + cosine) / 2. P are the other utterances of the anchor's class and its prototype, N all others (Song et al.
    2022, "Supervised prototypical contrastive learning for emotion recognition in conversation", arXiv
    2210.08713). Terms up to `floor` do not count: the least of a term is log |P|, not 0.

    Args:
        vectors: (B, H).
        target: (B,) classes.
        prototypes: (C, H), of each class.
        temperature: above 0.
        floor: see above.
        anchors: "batch", the utterances, or "all", the prototypes as well.
    """
    everything = torch.cat([vectors, prototypes.to(vectors.dtype)])
    classes = torch.cat([target, torch.arange(len(prototypes), device=target.device)])
    itself = torch.eye(len(everything), dtype=torch.bool, device=vectors.device)
    count = len(vectors) if anchors == "batch" else len(everything)
    scores = (1 + cosines(everything[:count], everything)) / 2 / temperature
    scores = scores.masked_fill(itself[:count], torch.finfo(scores.dtype).min)
    positive = ((classes[:count, None] == classes) & ~itself[:count]).to(scores.dtype)
    number = positive.sum(1)
    of_positives = scores.masked_fill(positive == 0, torch.finfo(scores.dtype).min).logsumexp(1)
    losses = scores.logsumexp(1) - of_positives + number.clamp_min(1).log()
    return mean_where(losses, (number > 0) & (losses > floor))


class PrototypeLoss(RepresentationLoss):
    """The base of losses with a prototype of each class, kept in buffers.

    Args:
        hidden: H of the vectors.
        outputs: C, number of the classes.
        temperature: the lower it is, the more the most similar vectors count.
        detach_classifier: see `RepresentationLoss`.
    """

    def __init__(
        self,
        *,
        task: str,
        hidden: PositiveCount,
        outputs: PositiveCount,
        temperature: Positive = 0.08,
        detach_classifier: bool = False,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, detach_classifier=detach_classifier, weights=weights)
        self.temperature = temperature
        self.initial: Tensor
        self.register_buffer("initial", orthonormal(outputs, hidden))


class SPCL(PrototypeLoss):
    """Supervised prototypical contrastive loss: `prototype_contrast` with prototypes from a pool of past vectors.

    A prototype is the mean of `support` vectors of its class's pool, drawn at random for each batch before the batch
    enters the pool; until the pool has as many, it is one of several orthonormal vectors, where the paper takes centres
    of clusters. A full pool forgets vectors at random. The paper's curriculum is left out, and so is its emptying of
    the pools after each epoch. In the paper the head alone is trained by cross-entropy: `detach_classifier=true`.

    Args:
        hidden: H of the vectors.
        outputs: C, number of the classes.
        pool: the most vectors of a class that are kept.
        support: the number whose mean is a prototype.
        floor, anchors, temperature: see `prototype_contrast`.
        detach_classifier: see `RepresentationLoss`.
    """

    def __init__(
        self,
        *,
        task: str,
        hidden: PositiveCount,
        outputs: PositiveCount,
        temperature: Positive = 0.08,
        pool: PositiveCount = 512,
        support: PositiveCount = 64,
        floor: NonNegative = 0.3,
        anchors: Literal["batch", "all"] = "batch",
        detach_classifier: bool = False,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(
            task=task,
            hidden=hidden,
            outputs=outputs,
            temperature=temperature,
            detach_classifier=detach_classifier,
            weights=weights,
        )
        if support > pool:
            raise UserError(f"loss.support: expected at most loss.pool={pool}, got {support}")
        self.support, self.floor, self.anchors = support, floor, anchors
        self.pool: Tensor
        self.filled: Tensor
        self.register_buffer("pool", torch.zeros(outputs, pool, hidden))
        self.register_buffer("filled", torch.zeros(outputs, dtype=torch.long))

    def compare(self, vectors: Tensor, target: Tensor) -> dict[str, Tensor]:
        prototypes = self.prototypes()
        if self.training:
            self.remember(vectors.detach(), target)
        value = prototype_contrast(
            vectors, target, prototypes, self.temperature, floor=self.floor, anchors=self.anchors
        )
        return {"spcl": value}

    def prototypes(self) -> Tensor:
        """(C, H); in evaluation the means of the whole pools."""
        rows = []
        for number, filled in enumerate(self.filled.tolist()):
            pool = self.pool[number, :filled]
            if filled < self.support:
                rows.append(self.initial[number])
            elif self.training:
                rows.append(pool[torch.randperm(filled)[: self.support].to(pool.device)].mean(0))
            else:
                rows.append(pool.mean(0))
        return torch.stack(rows)

    def remember(self, vectors: Tensor, target: Tensor) -> None:
        """Puts vectors (B, H) of classes (B,) into the pools."""
        most = self.pool.shape[1]
        for number in sorted(set(target.tolist())):
            kept = torch.cat([self.pool[number, : int(self.filled[number])], vectors[target == number].to(self.pool)])
            if len(kept) > most:
                kept = kept[torch.randperm(len(kept))[:most].to(kept.device)]
            self.pool[number, : len(kept)] = kept
            self.filled[number] = len(kept)


class APCL(PrototypeLoss):
    """Contrastive loss with prototypes that follow their classes and stay orthonormal.

    For an utterance, -mean over P of s / temperature + log Σ_N exp(s / temperature), averaged over the terms above 0;
    s, P and N as in `prototype_contrast`, so that N are the utterances and prototypes of other classes alone. After a
    batch in training, the memory of a class becomes γ m + β (mean of its vectors - its prototype), and the prototypes
    the orthonormal factor of the first prototypes plus the memories, with the signs of the former.

    Args:
        hidden: H of the vectors, at least the number of classes.
        outputs: C, number of the classes.
        momentum: γ, what of a memory stays.
        rate: β, what of a batch enters a memory.
        temperature: see `prototype_contrast`.
        detach_classifier: see `RepresentationLoss`.
    """

    def __init__(
        self,
        *,
        task: str,
        hidden: PositiveCount,
        outputs: PositiveCount,
        temperature: Positive = 0.08,
        momentum: NonNegative = 0.1,
        rate: NonNegative = 0.1,
        detach_classifier: bool = False,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(
            task=task,
            hidden=hidden,
            outputs=outputs,
            temperature=temperature,
            detach_classifier=detach_classifier,
            weights=weights,
        )
        if outputs > hidden:
            raise UserError(f"loss: expected model.hidden of at least the {outputs} classes for apcl, got {hidden}")
        self.momentum, self.rate = momentum, rate
        self.memory: Tensor
        self.prototypes: Tensor
        self.register_buffer("memory", torch.zeros(outputs, hidden))
        self.register_buffer("prototypes", self.initial.clone())

    def compare(self, vectors: Tensor, target: Tensor) -> dict[str, Tensor]:
        value = decoupled_contrast(vectors, target, self.prototypes, self.temperature)
        if self.training:
            self.follow(vectors.detach(), target)
        return {"apcl": value}

    def follow(self, vectors: Tensor, target: Tensor) -> None:
        """Moves memories and prototypes by vectors (B, H) of classes (B,)."""
        for number in sorted(set(target.tolist())):
            mean = vectors[target == number].to(self.memory).mean(0)
            self.memory[number] = self.momentum * self.memory[number] + self.rate * (mean - self.prototypes[number])
        factor, signs = torch.linalg.qr((self.initial + self.memory).T)
        # the signs of the factor's columns are arbitrary
        self.prototypes = (factor * torch.where(signs.diagonal() < 0, -1.0, 1.0)).T.contiguous()


def decoupled_contrast(vectors: Tensor, target: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """The loss of `APCL` for vectors (B, H), classes (B,) and prototypes (C, H)."""
    everything = torch.cat([vectors, prototypes.to(vectors.dtype)])
    classes = torch.cat([target, torch.arange(len(prototypes), device=target.device)])
    itself = torch.eye(len(everything), dtype=torch.bool, device=vectors.device)[: len(vectors)]
    scores = (1 + cosines(vectors, everything)) / 2 / temperature
    same = target[:, None] == classes
    positive = same & ~itself
    attraction = scores.where(positive, 0).sum(1) / positive.sum(1).clamp_min(1)
    repulsion = scores.masked_fill(same, torch.finfo(scores.dtype).min).logsumexp(1)
    losses = repulsion - attraction
    return mean_where(losses, losses > 0)
