"""CH-SIMS: Chinese clips of films, series and shows, rated for sentiment as a whole and by each modality alone.

Yu et al. (2020), ACL, "CH-SIMS: A Chinese Multimodal Sentiment Analysis Dataset with Fine-grained Annotation of
Modality". For research.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Problem, check_utterances, media_notes
from emorec.datasets.splits import OfficialSplit
from emorec.datasets.tables import read_table
from emorec.datasets.utterance import Target, Task, Utterance

TABLE = "label.csv"
COLUMNS = ("video_id", "clip_id", "text", "label", "annotation", "mode")
# The task of each column of values; those of single modalities are not in every copy.
TASK_OF_COLUMN = {
    "label": "sentiment",
    "label_T": "sentiment_text",
    "label_A": "sentiment_audio",
    "label_V": "sentiment_video",
}
POLARITIES = ("negative", "neutral", "positive")
SPLIT_OF_MODE = {"train": "train", "valid": "val", "test": "test"}
COUNTS = {"train": 1368, "val": 456, "test": 457}
CLIP_DIGITS = 4  # 0001.mp4

# Thresholds of the accuracies of two, three and five classes that the corpus is judged by.
CUTS = ((0.0,), (-0.1, 0.1), (-0.7, -0.1, 0.1, 0.7))
TASKS = {
    name: Task(name=name, kind="regression", labels=(name,), monitor="mae", direction="min", cuts=CUTS)
    for name in TASK_OF_COLUMN.values()
} | {"polarity": Task(name="polarity", labels=POLARITIES)}
PROTOCOLS = {"official": OfficialSplit()}


@dataclass(kw_only=True)
class ChSims(Corpus):
    """CH-SIMS as its authors ship it: `label.csv` and `Raw/video_0001/0001.mp4`.

    Clip numbers that a spreadsheet robbed of their leading zeros are understood.
    """

    name: ClassVar[str] = "ch_sims"

    @classmethod
    def write_fixture(cls, folder: Path) -> None:
        from emorec.datasets.fixtures.ch_sims import write

        write(folder)

    def scan(self) -> Manifest:
        self.require_folder("Get label.csv and Raw/ from the authors' page of MMSA.")
        problems: list[Problem] = []
        utterances: list[Utterance] = []
        columns: set[str] = set()
        for line, row in read_table(self.folder / TABLE, COLUMNS, problems):
            columns |= row.keys()
            utterance, found = _utterance(row, f"{TABLE}:{line}", self.folder / "Raw")
            problems += found
            utterances += [utterance] if utterance is not None else []
        absent = {task for column, task in TASK_OF_COLUMN.items() if column not in columns}
        tasks = {name: task for name, task in TASKS.items() if name not in absent}
        problems += check_utterances(utterances, tasks)
        problems += _count_problems(utterances)
        return Manifest(
            dataset=self.name,
            utterances=tuple(sorted(utterances, key=lambda item: item.id)),
            tasks=tasks,
            protocols=dict(PROTOCOLS),
            problems=tuple(problems),
            notes=tuple(_notes(utterances)),
        )


def _utterance(row: dict[str, str], where: str, folder: Path) -> tuple[Utterance | None, list[Problem]]:
    """The utterance of a row of the table, or all that is wrong with the row."""
    targets, found = _targets(row, where)
    video, number = row["video_id"].strip(), row["clip_id"].strip()
    if not number.isdecimal():
        found.append(Problem("number", where, f"expected clip_id to be a number, got {row['clip_id']!r}"))
    if row["mode"].strip() not in SPLIT_OF_MODE:
        found.append(Problem("split", where, f"expected mode in {tuple(SPLIT_OF_MODE)}, got {row['mode']!r}"))
    if found:
        return None, found
    clip = f"{int(number):0{CLIP_DIGITS}d}"
    path = folder / video / f"{clip}.mp4"
    if not path.exists() and path.with_suffix(".MP4").exists():
        path = path.with_suffix(".MP4")
    media = path if path.is_file() else None
    utterance = Utterance(
        id=f"{video}_{clip}",
        dataset=ChSims.name,
        audio=media,
        video=media,
        text=row["text"].strip() or None,
        targets=targets,
        dialogue=video,
        turn=int(number),
        split=SPLIT_OF_MODE[row["mode"].strip()],
    )
    return utterance, []


def _targets(row: dict[str, str], where: str) -> tuple[dict[str, Target], list[Problem]]:
    targets: dict[str, Target] = {}
    found = []
    for column in (name for name in TASK_OF_COLUMN if name in row):
        try:
            value = float(row[column] or "")
        except ValueError:
            value = math.nan
        if -1 <= value <= 1:
            targets[TASK_OF_COLUMN[column]] = value
        else:
            found.append(Problem("label", where, f"expected {column} from -1 to 1, got {row[column]!r}"))
    polarity = row["annotation"].strip().lower()
    if polarity in POLARITIES:
        targets["polarity"] = POLARITIES.index(polarity)
    else:
        found.append(Problem("label", where, f"expected annotation in {POLARITIES}, got {row['annotation']!r}"))
    return targets, found


def _count_problems(utterances: list[Utterance]) -> Iterator[Problem]:
    """Where a whole corpus has other counts than the published ones."""
    found = Counter(str(item.split) for item in utterances)
    if found.total() >= sum(COUNTS.values()):
        for split, count in COUNTS.items():
            if found[split] != count:
                yield Problem("count", split, f"expected {count} clips as published, found {found[split]}", fatal=False)


def _notes(utterances: list[Utterance]) -> Iterator[str]:
    if len(utterances) < sum(COUNTS.values()):
        yield f"{len(utterances)} of {sum(COUNTS.values())} clips"
    yield from media_notes(utterances)
