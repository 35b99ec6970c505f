"""Batches of utterances: each by itself, or in whole dialogues."""

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from itertools import chain
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor

from emorec.batch import IGNORED, Batch
from emorec.datamodules import dialogues
from emorec.datamodules.loaders import BatchLoader, DialogueLoader
from emorec.datamodules.statistics import AT_ONCE, Front, Reader, frame_statistics, speaker_statistics
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import SPLITS, VOTES, Task, Utterance
from emorec.draws import keys_of, mixed
from emorec.errors import UserError

LARGEST = 2**63 - 1  # int64
EVALUATION_FACTOR = 4  # larger batches for evaluation, which needs less memory without gradients


class UtteranceTable:
    """The utterances of one split as tensors, which are gathered into batches without a loop over utterances.

    Args:
        utterances: N utterances of the manifest's corpus.
        task: of the targets.
        readers: {modality: reader of features}.
        indices: (N,) index of each utterance in the readers.
        views: {modality: number of augmented views in the readers}; view v of index i has index i + v · stride.
        stride: number of indices of a view.
        live: modalities whose rows are inputs of an encoder that trains.
        scored: ids of the utterances that have a target; `None` for all that the task has one of.
        others: other tasks, whose targets are carried as well.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        manifest: Manifest,
        task: Task,
        readers: Mapping[str, Reader],
        indices: Tensor,
        *,
        views: Mapping[str, int] | None = None,
        stride: int = 0,
        live: frozenset[str] = frozenset(),
        scored: AbstractSet[str] | None = None,
        others: Sequence[Task] = (),
    ) -> None:
        self.utterances = tuple(utterances)
        self.task = task
        self.readers = dict(readers)
        self.live = live
        self.teacher: dict[str, Tensor] = {}  # {"logits": (N, C), "fused": (N, H)} of the model to learn from
        self.statistics: dict[str, Tensor] = {}  # {modality: (S + 1, 2, D)} of the speakers; the last: of nobody known
        self.indices = indices
        self._views, self._stride = {modality: (views or {}).get(modality, 0) for modality in readers}, stride
        self._present = {modality: reader.present[indices] for modality, reader in readers.items()}
        speakers = {name: number for number, name in enumerate(manifest.speakers)}
        numbers = {name: number for number, name in enumerate(manifest.dialogues)}
        self._id = np.array([item.id for item in utterances], dtype=object)
        self.speaker = torch.tensor([speakers.get(item.speaker or "", -1) for item in utterances])
        self._dialogue = torch.tensor([numbers.get(item.dialogue or "", -1) for item in utterances])
        names = keys_of(manifest.speakers) & LARGEST  # the last number is that of unknown speakers, -1
        self._name = torch.cat([names, torch.tensor([-1])])[self.speaker]
        self._turn = torch.tensor([-1 if item.turn is None else item.turn for item in utterances])
        targets = [item.targets if scored is None or item.id in scored else {} for item in utterances]
        self.target, self.has_target = _targets(targets, task)
        own_labels = {name: item.labels for name, item in manifest.tasks.items()}
        self.others = {  # {task: (target, has_target)}; a corpus with other classes has no target for a task
            other.name: _targets(targets if own_labels.get(other.name) == other.labels else [{}] * len(targets), other)
            for other in others
        }
        self.votes = _votes(targets, task)

    def __len__(self) -> int:
        return len(self.utterances)

    def batch(self, rows: Tensor) -> Batch:
        """A batch of the utterances `rows` (B,), numbers from 0 to N - 1."""
        return next(self.batches(rows, [len(rows)]))

    def batches(
        self,
        rows: Tensor,
        sizes: Sequence[int],
        turns: Sequence[Sequence[int]] | None = None,
        draws: Tensor | None = None,
        epoch_key: int | None = None,
    ) -> Iterator[Batch]:
        """Yields the utterances `rows` in batches.

        Small tensors are indexed once and then split; features are gathered batch by batch.

        Args:
            rows: (R,) numbers of utterances.
            sizes: of the batches, R together.
            turns: numbers of turns of the dialogues of each batch; `None` where utterances stand alone.
            draws: (N,) a random number for each utterance, which chooses its view; `None` for no augmented views.
            epoch_key: of (seed, epoch); `None` for no augmentation.
        """
        cut_sizes = list(sizes)
        keys = None if epoch_key is None else mixed(self._key[rows] ^ epoch_key)
        cut_others = {
            name: list(zip(*(torch.split(column[rows], cut_sizes) for column in columns), strict=True))
            for name, columns in self.others.items()
        }
        cut_votes = None if self.votes is None else torch.split(self.votes[rows], cut_sizes)
        columns = [self.target, self.has_target, self.speaker, self._name, self._dialogue, self._turn]
        columns += self._present.values()
        cuts = zip(*(torch.split(column[rows], cut_sizes) for column in columns), strict=True)
        cut_rows = torch.split(rows, cut_sizes)
        cut_keys = [None] * len(cut_sizes) if keys is None else torch.split(keys, cut_sizes)
        indices = self.indices[rows]
        gathered = zip(
            *(
                reader.batches(indices + self._view_offset(modality, rows, draws), cut_sizes)
                for modality, reader in self.readers.items()
            ),
            strict=True,
        )
        identifiers = self._id[rows.numpy()]
        end = 0
        for number, (cut, features) in enumerate(zip(cuts, gathered, strict=True)):
            target, has_target, speaker, name, dialogue, turn, *present = cut
            gathered_of = dict(zip(self.readers, features, strict=True))
            start, end = end, end + len(target)
            yield Batch(
                id=tuple(identifiers[start:end]),
                features={
                    modality: values for modality, (values, _) in gathered_of.items() if modality not in self.live
                },
                inputs={modality: values for modality, (values, _) in gathered_of.items() if modality in self.live},
                mask={modality: mask for modality, (_, mask) in gathered_of.items()},
                present=dict(zip(self.readers, present, strict=True)),
                targets={self.task.name: target, **{name: cuts_of[number][0] for name, cuts_of in cut_others.items()}},
                votes={} if cut_votes is None else {self.task.name: cut_votes[number]},
                target_mask={
                    self.task.name: has_target,
                    **{name: cuts_of[number][1] for name, cuts_of in cut_others.items()},
                },
                speaker=name,
                dialogue=dialogue,
                turn=turn,
                layout=None if turns is None else dialogues.layout(torch.tensor(turns[number])),
                draw=cut_keys[number],
                teacher={name: values[cut_rows[number]] for name, values in self.teacher.items()},
                statistics={modality: values[speaker] for modality, values in self.statistics.items()},
            )

    @cached_property
    def length(self) -> Tensor:
        """(N,) number of frames of each utterance, of all modalities together."""
        return torch.stack(
            [reader.length[self.indices.to(reader.length.device)].cpu() for reader in self.readers.values()]
        ).sum(0)

    @cached_property
    def _key(self) -> Tensor:
        """(N,) an int64 number of each utterance's id."""
        return keys_of([item.id for item in self.utterances])

    def _view_offset(self, modality: str, rows: Tensor, draws: Tensor | None) -> Tensor | int:
        """Difference between the indices of the drawn views and those of the utterances."""
        views = self._views[modality]
        return 0 if draws is None or views == 0 else (draws[rows] % (views + 1)) * self._stride

    def class_counts(self) -> Tensor:
        """(C,) number of utterances of each class."""
        return torch.bincount(self.target[self.has_target], minlength=len(self.task.labels))

    def feature_statistics(
        self, modality: str, *, batch_size: int = AT_ONCE, front: Front | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over all frames of a modality, each (D,); for `front` see `frame_statistics`."""
        groups = torch.zeros(len(self.indices), dtype=torch.long)
        reader = self.readers[modality]
        statistics = frame_statistics(reader, self.indices, groups, 1, batch_size=batch_size, front=front)[0]
        if bool(statistics.isnan().any()):
            raise UserError(f"expected {modality} of at least one utterance of the training split, got none")
        return statistics[0], statistics[1]


def _targets(targets: Sequence[Mapping[str, Any]], task: Task) -> tuple[Tensor, Tensor]:
    """(N,) targets for a task, and (N,) where there is one."""
    missing, dtype = (IGNORED, torch.int64) if task.kind == "classification" else (math.nan, torch.float32)
    values = torch.tensor([own.get(task.name, missing) for own in targets], dtype=dtype)
    return values, torch.tensor([task.name in own for own in targets])


def _votes(targets: Sequence[Mapping[str, Any]], task: Task) -> Tensor | None:
    """(N, C) shares of the raters' votes, NaN where there are none; `None` where there are none at all."""
    name, nothing = f"{task.name}{VOTES}", (math.nan,) * len(task.labels)
    if not any(name in own for own in targets):
        return None
    return torch.tensor([own.get(name, nothing) for own in targets], dtype=torch.float32)


class UtteranceDataModule(lightning.LightningDataModule):
    """The three splits of a corpus on cached features.

    Args:
        splits: {split: its utterances}.
        readers: {modality: reader of features}.
        indices: {split: (N,) index of each utterance in the readers}.
        batch_size: number of utterances in a training batch.
        batch_size_per: what `batch_size` counts: "step", the utterances of all ranks, or "device", those of each rank.
        seed: of the order of the training split.
        layers: {modality: number of layers whose features are concatenated}; 1 by default.
        views: {modality: number of augmented views in the readers}, from which training draws.
        stride: number of indices of a view.
        live: modalities whose rows are inputs of an encoder that trains.
        group_by_length: whether training batches hold utterances of near equal length.
        group_by_speaker: number of utterances of each speaker of a training batch; `None` for any.
        scored: ids of the utterances that have a target, where the splits are whole dialogues in order; else `None`.
        others: other tasks.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        splits: Mapping[str, Sequence[Utterance]],
        task: Task,
        readers: Mapping[str, Reader],
        indices: Mapping[str, Tensor],
        batch_size: int,
        seed: int,
        layers: Mapping[str, int] | None = None,
        views: Mapping[str, int] | None = None,
        stride: int = 0,
        batch_size_per: str = "step",
        group_by_length: bool = False,
        group_by_speaker: int | None = None,
        live: frozenset[str] = frozenset(),
        scored: AbstractSet[str] | None = None,
        others: Sequence[Task] = (),
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"expected batch_size of at least 1, got {batch_size}")
        self.batch_size_per = batch_size_per
        self.task = task
        self.batch_size, self.seed = batch_size, seed
        self.loader_class = BatchLoader if scored is None else DialogueLoader
        self.group_by_length, self.group_by_speaker = group_by_length, group_by_speaker
        self.layers = {modality: (layers or {}).get(modality, 1) for modality in readers}
        self.tables = {
            name: UtteranceTable(
                splits[name],
                manifest,
                task,
                readers,
                indices[name],
                views=views,
                stride=stride,
                live=live,
                scored=scored,
                others=others,
            )
            for name in SPLITS
        }

    def carry_speaker_statistics(self, fronts: Mapping[str, Front | None]) -> None:
        """From now on batches carry the mean and standard deviation of each utterance's speaker, for some modalities.

        They are computed from all utterances of the speaker in the three splits; no target is read.
        `fronts` are {modality: see `frame_statistics`}.
        """
        tables = list(self.tables.values())
        indices = torch.cat([table.indices for table in tables])
        speakers = torch.cat([table.speaker for table in tables])
        for modality, front in fronts.items():
            reader = tables[0].readers[modality]
            statistics = speaker_statistics(reader, indices, speakers, modality, front=front)
            for table in tables:
                table.statistics[modality] = statistics

    @property
    def utterances(self) -> Iterator[Utterance]:
        """Those of all splits."""
        return chain.from_iterable(table.utterances for table in self.tables.values())

    @property
    def feature_dims(self) -> dict[str, int]:
        """{modality: D}."""
        return {modality: reader.dim for modality, reader in self.tables["train"].readers.items()}

    def loader(self, split: str, *, shuffle: bool = False, shard: tuple[int, int] = (0, 1)) -> BatchLoader:
        """The batches of a split for a rank: shuffled for training, or larger and in order for evaluation."""
        size = self.batch_size if shuffle else EVALUATION_FACTOR * self.batch_size
        if self.batch_size_per == "step":
            size = size // shard[1]
        return self.loader_class(
            self.tables[split],
            batch_size=size,
            shuffle=shuffle,
            seed=self.seed,
            shard=shard,
            by_length=shuffle and self.group_by_length,
            of_speaker=self.group_by_speaker if shuffle else None,
        )

    @property
    def _shard(self) -> tuple[int, int]:
        """The rank of this process and the number of ranks."""
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def train_dataloader(self) -> BatchLoader:
        return self.loader("train", shuffle=True, shard=self._shard)

    def val_dataloader(self) -> BatchLoader:
        return self.loader("val", shard=self._shard)

    def test_dataloader(self) -> BatchLoader:
        return self.loader("test", shard=self._shard)
