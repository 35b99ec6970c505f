"""CH-SIMS: Chinese clips of films, series and shows, rated for sentiment as a whole and in each modality alone.

Yu et al. (2020), ACL, "CH-SIMS: A Chinese Multimodal Sentiment Analysis Dataset with Fine-grained Annotation of
Modality". For research.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Problem, count_problems, media_notes
from emorec.datasets.splits import OfficialSplit
from emorec.datasets.tables import Row, read_rows
from emorec.datasets.utterance import Target, Task, Utterance

TABLE = "label.csv"
COLUMNS = ("video_id", "clip_id", "text", "label", "annotation", "mode")
# The task of each column of values. Some copies lack the columns of single modalities.
TASK_OF_COLUMN = {
    "label": "sentiment",
    "label_T": "sentiment_text",
    "label_A": "sentiment_audio",
    "label_V": "sentiment_video",
}
POLARITIES = ("negative", "neutral", "positive")
SPLIT_OF_MODE = {"train": "train", "valid": "val", "test": "test"}
COUNTS = {"train": 1368, "val": 456, "test": 457}
TOTAL = sum(COUNTS.values())
CLIP_DIGITS = 4  # 0001.mp4

# Thresholds for the accuracies of two, three and five classes that are usually reported for this corpus.
CUTS = ((0.0,), (-0.1, 0.1), (-0.7, -0.1, 0.1, 0.7))
TASKS = {
    name: Task(name=name, kind="regression", labels=(name,), monitor="mae", direction="min", cuts=CUTS)
    for name in TASK_OF_COLUMN.values()
} | {"polarity": Task(name="polarity", labels=POLARITIES)}
PROTOCOLS = {"official": OfficialSplit()}


@dataclass(kw_only=True)
class ChSims(Corpus):
    """CH-SIMS as published: `label.csv` and `Raw/video_0001/0001.mp4`.

    Clip numbers may lack their leading zeros, which spreadsheets remove.
    """

    name: ClassVar[str] = "ch_sims"
    origin: ClassVar[str] = "Get label.csv and Raw/ from the authors' page, https://github.com/thuiar/MMSA."

    def scan(self) -> Manifest:
        self.require_folder()
        problems: list[Problem] = []
        rows = read_rows(self.folder / TABLE, COLUMNS, problems)
        columns = [name for name in TASK_OF_COLUMN if rows and name in rows[0].cells]
        utterances = [item for row in rows if (item := _utterance(row, columns, self.folder / "Raw"))]
        if len(utterances) >= TOTAL:
            counts = Counter(str(item.split) for item in utterances)
            problems += count_problems(
                (split, "clips as published", count, counts[split]) for split, count in COUNTS.items()
            )
        tasks = {name: TASKS[name] for name in (*(TASK_OF_COLUMN[column] for column in columns), "polarity")}
        partial = [f"{len(utterances)} of {TOTAL} clips"] if len(utterances) < TOTAL else []
        return self.build_manifest(utterances, tasks, PROTOCOLS, problems, [*partial, *media_notes(utterances)])


def _utterance(row: Row, columns: list[str], folder: Path) -> Utterance | None:
    """The utterance of a row; `None` if the row has problems."""
    targets: dict[str, Target] = {}
    for column in columns:
        value = row.value(column)
        if -1 <= value <= 1:
            targets[TASK_OF_COLUMN[column]] = value
        else:
            row.reject("label", column, "from -1 to 1")
    polarity = row.index("annotation", POLARITIES, lower=True)
    number = row.whole_number("clip_id")
    mode = row.index("mode", tuple(SPLIT_OF_MODE), kind="split")
    if polarity is None or number is None or mode is None or len(targets) < len(columns):
        return None
    video, clip = row.cells["video_id"].strip(), f"{number:0{CLIP_DIGITS}d}"
    path = folder / video / f"{clip}.mp4"
    if not path.exists() and path.with_suffix(".MP4").exists():
        path = path.with_suffix(".MP4")
    media = path if path.is_file() else None
    return Utterance(
        id=f"{video}_{clip}",
        dataset=ChSims.name,
        audio=media,
        video=media,
        text=row.text("text"),
        targets={**targets, "polarity": polarity},
        dialogue=video,
        turn=number,
        split=tuple(SPLIT_OF_MODE.values())[mode],
    )
