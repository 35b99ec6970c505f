"""The batches of an epoch: their order, and what of it each rank gets."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emorec.batch import Batch
from emorec.datamodules import dialogues
from emorec.draws import mixed

if TYPE_CHECKING:
    from emorec.datamodules.utterances import UtteranceTable

LENGTH_WINDOW = 50  # batches among which utterances are sorted by length
VIEWS, BATCHES = 1 << 62, 1 << 61  # streams of random numbers beside that of the rows


class EpochOrder:
    """The order of N rows in an epoch: a permutation that depends on (seed, epoch), or 0 to N - 1."""

    def __init__(self, count: int, *, shuffle: bool, seed: int) -> None:
        self.count, self.shuffle, self.seed, self.epoch = count, shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def rows(self) -> Tensor:
        """(N,) row numbers in the order of this epoch."""
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=self._generator())

    def draws(self, count: int) -> Tensor | None:
        """(`count`,) a random number for each utterance in this epoch; `None` without shuffling."""
        return torch.randint(1 << 30, (count,), generator=self._generator(VIEWS)) if self.shuffle else None

    def permutation(self, count: int) -> list[int]:
        """The numbers from 0 on in an order of this epoch, another one than that of the rows."""
        order: list[int] = torch.randperm(count, generator=self._generator(BATCHES)).tolist()
        return order

    def key(self) -> int | None:
        """A number of (seed, epoch); `None` without shuffling."""
        if not self.shuffle:
            return None
        return int(mixed(mixed(torch.tensor(self.seed)) + self.epoch))

    def _generator(self, stream: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(((self.seed * 1_000_003 + self.epoch) ^ stream) % (1 << 63))


@dataclass(frozen=True)
class Plan:
    """The batches of one rank in an epoch."""

    rows: Tensor  # (R,) numbers of utterances, batch by batch
    sizes: list[int]  # of the batches
    # numbers of turns of the dialogues of each batch; `None` where utterances stand alone
    turns: list[list[int]] | None
    of_all: Tensor  # (batches, ranks), the number of targets of each batch of all ranks

    def after(self, count: int) -> "Plan":
        """What is left after the first `count` batches."""
        turns = None if self.turns is None else self.turns[count:]
        return Plan(self.rows[sum(self.sizes[:count]) :], self.sizes[count:], turns, self.of_all)


class BatchLoader:
    """Iterates over the batches of a table. Its state allows a run to resume within an epoch.

    Args:
        batch_size: of all batches but the last.
        shuffle: whether each epoch has a new order, which depends on `seed`.
        shard: (rank, number of ranks W). With `shuffle` all ranks get equally many utterances, so an epoch leaves out
            up to W - 1, different ones each time. Otherwise each utterance is on exactly one rank.
        by_length: whether each window of some batches of the epoch's order is sorted by length, and the batches then
            get an order of their own.
        of_speaker: number of utterances of one speaker that follow each other; the rest of each speaker, where it has
            no multiple of it, comes last. `None` for any order.
    """

    def __init__(
        self,
        table: "UtteranceTable",
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        by_length: bool = False,
        of_speaker: int | None = None,
    ) -> None:
        self.table, self.by_length, self.of_speaker = table, by_length, of_speaker
        self.batch_size = batch_size
        self.rank, self.ranks = shard
        self.sampler = EpochOrder(self.count, shuffle=shuffle, seed=seed)
        self.batch_sampler = None  # Lightning asks for it once there is a sampler
        self._done = 0  # batches yielded in this epoch
        self._resume_at = 0
        self._plan_of: tuple[int, Plan] | None = None  # an epoch, and its plan

    @property
    def count(self) -> int:
        """What an epoch puts in order: the utterances."""
        return len(self.table)

    @property
    def is_even(self) -> bool:
        """Whether the batches of a step have equally many targets on all ranks."""
        return True

    def __len__(self) -> int:
        return math.ceil(len(self._shard(torch.arange(len(self.table)))) / self.batch_size)

    def share(self, number: int, window: int) -> float:
        """The factor of the loss of batch `number`, the mean over its targets, with which the gradient is that of the
        mean over all targets of a step.

        A step adds the gradients of `window` batches, divided by `window`, and averages them over the ranks.
        """
        of_all = self._planned().of_all
        first = number // window * window
        of_step = int(of_all[first : first + window].sum())
        return window * self.ranks * int(of_all[number, self.rank]) / max(1, of_step)

    def _planned(self) -> Plan:
        if self._plan_of is None or self._plan_of[0] != self.sampler.epoch:
            self._plan_of = (self.sampler.epoch, self.plan())
        return self._plan_of[1]

    def plan(self) -> Plan:
        """The batches of this epoch."""
        rows = self.sampler.rows()
        if self.of_speaker is not None:
            rows = self._by_speaker(rows, self.of_speaker)
        rows = self._shard(self._grouped(rows) if self.by_length else rows)
        sizes = [len(part) for part in torch.split(rows, self.batch_size)] if len(rows) else []
        return Plan(rows, sizes, None, torch.tensor(sizes)[:, None].expand(-1, self.ranks))

    def _grouped(self, rows: Tensor) -> Tensor:
        """The rows of an epoch with neighbours of near equal length."""
        size = self.batch_size * self.ranks
        windows = torch.split(rows, LENGTH_WINDOW * size)
        rows = torch.cat([window[self.table.length[window].argsort(stable=True)] for window in windows])
        *batches, last = torch.split(rows, size)  # the last one may be smaller than the others
        return torch.cat([*(batches[index] for index in self.sampler.permutation(len(batches))), last])

    def _by_speaker(self, rows: Tensor, count: int) -> Tensor:
        """The rows of an epoch in groups of `count` of one speaker, in a random order, and then those left over."""
        speakers = self.table.speaker[rows]
        parts = [part for name in torch.unique(speakers) for part in torch.split(rows[speakers == name], count)]
        groups = [part for part in parts if len(part) == count]
        rest = [part for part in parts if len(part) < count]
        return torch.cat([*(groups[index] for index in self.sampler.permutation(len(groups))), *rest])

    def _shard(self, rows: Tensor) -> Tensor:
        """The rows of this rank in an epoch: its part of each batch of all ranks."""
        if self.ranks == 1:
            return rows
        if not self.sampler.shuffle:
            return rows[self.rank :: self.ranks]
        rows = rows[: len(rows) - len(rows) % self.ranks]
        batches = torch.split(rows, self.batch_size * self.ranks)
        return torch.cat([batch.chunk(self.ranks)[self.rank] for batch in batches])

    def __iter__(self) -> Iterator[Batch]:
        self._done, self._resume_at = self._resume_at, 0
        plan = self._planned().after(self._done)
        draws, key = self.sampler.draws(len(self.table)), self.sampler.key()
        for batch in self.table.batches(plan.rows, plan.sizes, plan.turns, draws, key):
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.sampler.epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.set_epoch(int(state["epoch"]))
        self._resume_at = int(state["done"]) % max(1, len(self))


class DialogueLoader(BatchLoader):
    """Batches of whole dialogues of near equal length.

    In training the dialogues are ordered by length, at random among equals, and cut into batches, whose order is random
    as well; so all epochs have equally many batches.

    Args:
        batch_size: the most turns of a batch, padding included, unless a single dialogue has more.
        shard: (rank, number of ranks W). With `shuffle` an epoch leaves out up to W - 1 batches, different ones each
            time. Otherwise each dialogue is on exactly one rank.
    """

    @property
    def count(self) -> int:
        return len(self._turns)

    @property
    def is_even(self) -> bool:
        return self.ranks == 1

    @cached_property
    def _turns(self) -> list[int]:
        """Number of turns of each dialogue of the table."""
        return dialogues.lengths(self.table.utterances)

    @cached_property
    def _groups(self) -> list[int]:
        """Number of dialogues of each batch of an epoch, all ranks together, before their order is drawn."""
        counts, budget = sorted(self._turns) if self.sampler.shuffle else self._turns, self.batch_size
        groups = dialogues.groups_within(counts, budget)
        while len(groups) < self.ranks <= len(counts):  # each rank needs a batch
            budget //= 2
            groups = dialogues.groups_within(counts, budget)
        return groups

    def __len__(self) -> int:
        left = len(self._groups) if self.sampler.shuffle else len(self._groups) - self.rank + self.ranks - 1
        return left // self.ranks

    def plan(self) -> Plan:
        counts = torch.tensor(self._turns)
        order = self.sampler.rows()
        groups = list(torch.split(order, self._groups))
        if self.sampler.shuffle:
            groups = list(torch.split(order[counts[order].argsort(stable=True)], self._groups))
            groups = [groups[index] for index in self.sampler.permutation(len(groups))]
            groups = groups[: len(groups) - len(groups) % self.ranks]
        first = counts.cumsum(0) - counts
        rows = [
            torch.cat([torch.arange(start, start + count) for start, count in zip(begin, turns, strict=True)])
            for group in groups[self.rank :: self.ranks]
            for begin, turns in [(first[group].tolist(), counts[group].tolist())]
        ]
        of_dialogue = torch.zeros(len(counts), dtype=torch.long)
        of_dialogue.index_add_(0, torch.arange(len(counts)).repeat_interleave(counts), self.table.has_target.long())
        of_all = torch.tensor([int(of_dialogue[group].sum()) for group in groups])
        padded = torch.nn.functional.pad(of_all, (0, -len(groups) % self.ranks))
        return Plan(
            torch.cat(rows) if rows else torch.arange(0),
            [len(part) for part in rows],
            [counts[group].tolist() for group in groups[self.rank :: self.ranks]],
            padded.view(-1, self.ranks),
        )
