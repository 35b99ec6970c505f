"""Mean and standard deviation of features, over all utterances or over those of each speaker."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from emorec.features.layers import LayeredReader
from emorec.features.reader import FeatureReader
from emorec.features.streaming import StreamedReader

Front = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Reader = FeatureReader | LayeredReader | StreamedReader
log = logging.getLogger(__name__)

FEWEST = 8  # utterances of a speaker; with fewer, the statistics would be those of the words and not of the speaker
AT_ONCE = 128  # utterances


def frame_statistics(
    reader: Reader,
    indices: Tensor,
    groups: Tensor,
    count: int,
    *,
    batch_size: int = AT_ONCE,
    front: Front | None = None,
) -> Tensor:
    """Mean and standard deviation (G, 2, D) over all frames of each group, in one pass in float64.

    They are NaN for a group without frames.

    Args:
        reader: of the features.
        indices: (N,) into the reader.
        groups: (N,) the group of each, from 0 to G - 1.
        count: G.
        batch_size: utterances at once.
        front: makes other values and their mask of stored ones, (B, T, I) and (B, T); then it is about those.
    """
    shift = None
    frames = torch.zeros(count, 1, dtype=torch.float64)
    total = square = torch.zeros(0)
    for part, group in zip(torch.split(indices, batch_size), torch.split(groups, batch_size), strict=True):
        values, mask = (item.cpu() for item in reader.gather(part))
        if front is not None:
            values, mask = front(values, mask)
        if not bool(mask.any()):
            continue
        if shift is None:
            shift = values[mask].double().mean(0)  # near the mean, squares lose no digits
            total, square = torch.zeros(2, count, values.shape[2], dtype=torch.float64)
        moved = (values.double() - shift) * mask[:, :, None]  # (B, T, D)
        frames.index_add_(0, group, mask.sum(1, keepdim=True).double())
        total.index_add_(0, group, moved.sum(1))
        square.index_add_(0, group, moved.square().sum(1))
    if shift is None:
        return torch.full((count, 2, reader.dim), torch.nan)
    mean = total / frames  # NaN for 0 / 0
    deviation = (square / frames - mean.square()).clamp_min(0).sqrt()
    return torch.stack([mean + shift, deviation], dim=1).float()


def speaker_statistics(
    reader: Reader, indices: Tensor, speakers: Tensor, modality: str, *, front: Front | None = None
) -> Tensor:
    """Mean and standard deviation (S + 1, 2, D) of the frames of each of S speakers.

    They are NaN for a speaker with fewer than `FEWEST` utterances, and in the last row, which the number -1 of an
    unknown speaker addresses.

    Args:
        reader: of the features.
        indices: (N,) into the reader; each utterance counts once, however often it is given.
        speakers: (N,) number of the speaker of each, -1 where unknown.
        modality: of the features, for the log.
        front: see `frame_statistics`.
    """
    unique, place = torch.unique(indices, return_inverse=True)
    speaker_of = torch.full((len(unique),), -1).index_copy_(0, place, speakers)
    is_counted = (speaker_of >= 0) & reader.present[unique]
    groups = speaker_of[is_counted]
    count = int(speakers.max()) + 1
    utterances = torch.bincount(groups, minlength=count)
    of_speakers = frame_statistics(reader, unique[is_counted], groups, count, front=front)
    of_speakers[utterances < FEWEST] = torch.nan
    statistics = torch.cat([of_speakers, torch.full_like(of_speakers[:1], torch.nan)])
    known, few = int((utterances > 0).sum()), int(((utterances > 0) & (utterances < FEWEST)).sum())
    others = int((speaker_of < 0).sum()) + int(utterances[utterances < FEWEST].sum())
    log.info(
        "%s: standardised by speaker, for %d of %d; %d utterances of others by the training split",
        modality,
        known - few,
        known,
        others,
    )
    return statistics
