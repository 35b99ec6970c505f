"""Any corpus: one table, or a folder with one subfolder a label. No Python needed."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

from emorec.datasets.split_builders import RULES, why_speakers_recur, with_validation
from emorec.datasets.manifest import Corpus, Manifest, Problem, check_utterances
from emorec.datasets.splits import ListedFolds, Protocol
from emorec.datasets.tables import read_any_table
from emorec.datasets.utterance import SPLITS, Target, Task, Utterance
from emorec.errors import UserError

COLUMNS = (
    *("id", "audio", "video", "text", "start", "end"),
    *("label", "target", "speaker", "dialogue", "turn", "session", "split"),
)
SPLIT_NAMES = {"dev": "val", "valid": "val", "validation": "val", "training": "train", "testing": "test"}
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".flv")
TEXT_SUFFIXES = (".txt",)
MODALITY_OF = {
    suffix: modality
    for modality, suffixes in (("audio", AUDIO_SUFFIXES), ("video", VIDEO_SUFFIXES), ("text", TEXT_SUFFIXES))
    for suffix in suffixes
}
Row = tuple[str, Mapping[str, str]]  # where it stands, and its cells by column


@dataclass(kw_only=True)
class Custom(Corpus):
    """A corpus described by a table (CSV, TSV or Parquet), or by a folder of labelled subfolders.

    Columns: `id`; at least one of `audio`, `video` (paths, relative to the table) and `text`; `label` (a word) or
    `target` (a number); and, all optional, `start` and `end` (seconds into the media), `speaker`, `dialogue`, `turn`,
    `session`, `split`. Other columns become metadata. Where there is a video and no column `audio`, the sound is the
    video's. Without a table, each file in a subfolder of `root` is an utterance with the subfolder's name as its label;
    files of one name are its modalities.

    Args:
        table: the table; `None` for labelled subfolders of `root`.
        root: folder of labelled subfolders, or the folder that a relative `table` is in.
        task: what the label or target is called.
        protocol: "given" takes the table's splits (where none validates, a part of train does), "stratified",
            "group_k_fold" and "leave_one_speaker_out" make some; "auto" is the first of "given", "group_k_fold" and
            "stratified" that the table allows.
        fold: of the splits that are made.
        folds: how many are made.
        split_seed: of the splits that are made.
        label_order: the labels in the order of their numbers; `None` for all labels found, sorted.
        monitor: the metric that chooses the best epoch; `None` for uar, or ccc where there are targets.
        limit: keep only this many utterances, spread evenly over splits and classes.
    """

    name: ClassVar[str] = "custom"

    table: str | None = None
    folds: int = 5
    split_seed: int = 0
    label_order: Sequence[str] | None = None
    monitor: str | None = None

    @classmethod
    def write_fixture(cls, folder: Path) -> None:
        from emorec.datasets.fixtures.custom import write

        write(folder)

    def scan(self) -> Manifest:
        problems: list[Problem] = []
        rows = self._table_rows(problems) if self.table is not None else self._folder_rows(problems)
        utterances, task = self._utterances(rows, problems)
        problems += check_utterances(utterances, {self.task: task})
        utterances.sort(key=lambda item: item.id)
        readable = not any(problem.fatal for problem in problems)  # else there is nothing to make splits of
        rule, note = self._rule(utterances) if readable else (None, None)
        notes = [] if note is None else [note]
        found = {name for _, cells in rows for name in cells if name}
        if unknown := sorted(found - set(COLUMNS)):
            told = ", ".join(name + _meant(name, found) for name in unknown)
            notes.append(f"columns kept as metadata, for they have no other meaning: {told}")
        if {"label", "target"} <= found:
            notes.append("label is what is predicted; target is left aside")
        if alike := _alike(task.labels):
            notes.append(f"labels that differ in nothing but capitals are classes of their own: {', '.join(alike)}")
        return Manifest(
            dataset=self.name,
            utterances=tuple(utterances),
            tasks={self.task: task},
            protocols={} if rule is None else {self.protocol: rule},
            problems=tuple(problems),
            notes=tuple(notes),
        )

    def split(self, manifest: Manifest) -> dict[str, tuple[Utterance, ...]]:
        """The utterances of train, val and test as configured; splits that are given have no folds but one."""
        rule = manifest.protocols.get(self.protocol)
        if rule is not None and rule.folds == 0 and self.fold == 0:
            return replace(self, fold=None).split(manifest)
        return super().split(manifest)

    def _table_rows(self, problems: list[Problem]) -> list[Row]:
        path = self._table_path
        if not path.is_file():
            raise UserError(f"expected the table {path}, found no such file (dataset=custom; set dataset.table)")
        rows = read_any_table(path, COLUMNS, problems)
        if not rows:
            problems.append(Problem("table", str(path), "expected rows, found none"))
        found = list(rows[0][1]) if rows else ["id", "label"]
        if "id" not in found:
            problems.append(Problem("column", str(path), f"expected a column id, found {found}"))
            return []
        if not {"label", "target"} & set(found):
            problems.append(Problem("column", str(path), f"expected a column label or target, found {found}"))
        return [(f"{path.name}:{line}", cells) for line, cells in rows]

    @property
    def _table_path(self) -> Path:
        path = Path(str(self.table)).expanduser()
        return path if path.is_absolute() or path.is_file() else self.folder / path

    def _folder_rows(self, problems: list[Problem]) -> list[Row]:
        self.require_folder("Or describe it by a table: dataset.table=my_corpus.csv.")
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for place in _files(self.folder):
            column = MODALITY_OF.get(place.suffix.lower())
            if column is None or len(place.parts) < 2 or any(part.startswith(".") for part in place.parts):
                continue
            cells = found[place.with_suffix("").as_posix()]
            if column in cells:
                detail = f"expected one {column} file of this name, found {place.name} beside another"
                problems.append(Problem("duplicate", str(place), detail))
            try:
                cells[column] = str(place) if column != "text" else (self.folder / place).read_text("utf-8").strip()
            except UnicodeDecodeError as error:
                problems.append(Problem("encoding", str(place), f"expected UTF-8, got {error}"))
        with_media = any({"audio", "video"} & cells.keys() for cells in found.values())
        # beside clips a text is the transcript of one, or none of the corpus
        named = {name: cells for name, cells in found.items() if not with_media or cells.keys() != {"text"}}
        if not named:
            raise UserError(f"expected labelled subfolders with media in {self.folder}, found none (dataset=custom)")
        return [(name, {"id": name, "label": name.split("/")[0], **cells}) for name, cells in sorted(named.items())]

    def _utterances(self, rows: Sequence[Row], problems: list[Problem]) -> tuple[list[Utterance], Task]:
        regression = bool(rows) and "label" not in rows[0][1]
        labels: tuple[str, ...] = (self.task,)
        if not regression:
            found = sorted({cells.get("label", "").strip() for _, cells in rows} - {""})
            labels = self._label_order() or tuple(found)
            if rows and not found:
                problems.append(Problem("label", rows[0][0], "expected a label in some row, found none in any"))
        folder = self._table_path.parent if self.table is not None else self.folder
        utterances = []
        for where, cells in rows:
            reader = _Row(where, cells, problems)
            target = reader.number("target") if regression else reader.one_of("label", labels)
            utterances.append(_utterance(reader, {} if target is None else {self.task: target}, folder))
        kind, monitor = ("regression", "ccc") if regression else ("classification", "uar")
        chosen = self.monitor or monitor
        direction = "min" if chosen in ("loss", "mae", "rmse") else "max"
        return utterances, Task(name=self.task, kind=kind, labels=labels, monitor=chosen, direction=direction)  # type: ignore[arg-type]

    def _label_order(self) -> tuple[str, ...] | None:
        """The labels in the order that is configured, if one is.

        Raises:
            UserError: it is no list of different words.
        """
        order = self.label_order
        if order is None:
            return None
        labels = tuple(map(str, order)) if isinstance(order, list | tuple) else ()
        if not labels or len(set(labels)) < len(labels):
            raise UserError(f"expected dataset.label_order to be a list of different labels, got {order!r}")
        return labels

    def _rule(self, utterances: Sequence[Utterance]) -> tuple[Protocol, str]:
        """The rule that is configured, and what to say of it."""
        if not isinstance(self.folds, int) or self.folds < 3:
            raise UserError(f"expected dataset.folds of at least 3 (train, val and test), got {self.folds!r}")
        given = any(item.split is not None for item in utterances)
        speakers = {item.speaker for item in utterances}
        name = self.protocol
        if name == "auto":
            grouped = None not in speakers and len(speakers) >= max(3, self.folds)
            name = "given" if given else "group_k_fold" if grouped else "stratified"
        if name == "given":
            if not given:
                raise UserError("expected a column split in the table for dataset.protocol=given, found none")
            split_of = {item.id: item.split for item in utterances if item.split is not None}
            rest = len(utterances) - len(split_of)
            without = f"; {rest} utterances without one are left out" if rest else ""
            if "val" in split_of.values():
                return ListedFolds((split_of,), has_folds=False), f"splits are the table's{without}"
            made = with_validation(utterances, self.split_seed)
            return ListedFolds(
                (made,), has_folds=False
            ), f"splits are the table's, with a part of train to validate on{without}"
        if name not in RULES:
            raise UserError(f"expected dataset.protocol in {('auto', 'given', *RULES)}, got {self.protocol!r}")
        rule = RULES[name](utterances, self.task, self.folds, self.split_seed)
        why = why_speakers_recur(utterances, self.folds) if name != self.protocol else ""
        return rule, f"splits are made: {name}{why}, {rule.folds} folds, seed {self.split_seed}"


def _files(folder: Path) -> list[Path]:
    """All files below a folder, links followed, as paths from it."""
    return sorted(
        Path(where, name).relative_to(folder) for where, _, names in os.walk(folder, followlinks=True) for name in names
    )


def _alike(labels: Sequence[str]) -> list[str]:
    """Those that others equal but for capitals."""
    counts = Counter(label.casefold() for label in labels)
    return [label for label in labels if counts[label.casefold()] > 1]


def _meant(name: str, found: Collection[str]) -> str:
    """A question, where a column that is not there has a name much like this one."""
    meant = get_close_matches(name.strip().lower(), [column for column in COLUMNS if column not in found], 1, 0.75)
    return f" (did you mean {meant[0]}?)" if meant else ""


class _Row:
    """The cells of one row; what is wrong with one goes to the problems, with its place."""

    def __init__(self, where: str, cells: Mapping[str, str], problems: list[Problem]) -> None:
        self.where, self.cells, self.problems = where, cells, problems

    def text(self, column: str) -> str | None:
        return (self.cells.get(column) or "").strip() or None

    def number(self, column: str) -> float | None:
        text = self.text(column)
        try:
            value = None if text is None else float(text)
        except ValueError:
            value = float("nan")
        if value is not None and not abs(value) < float("inf"):
            self.problems.append(Problem("number", self.where, f"expected {column} to be a number, got {text!r}"))
            return None
        return value

    def one_of(self, column: str, names: Sequence[str]) -> int | None:
        text = self.text(column)
        if text is None:
            return None
        if text not in names:
            self.problems.append(Problem("label", self.where, f"expected {column} in {tuple(names)}, got {text!r}"))
            return None
        return names.index(text)


def _utterance(row: _Row, targets: dict[str, Target], folder: Path) -> Utterance:
    identifier = row.text("id")
    if identifier is None:
        row.problems.append(Problem("id", row.where, "expected an id, got none"))
    start, end, turn = row.number("start"), row.number("end"), row.number("turn")
    for column, seconds in (("start", start), ("end", end)):
        if seconds is not None and seconds < 0:
            row.problems.append(Problem("number", row.where, f"expected {column} of at least 0 seconds, got {seconds}"))
    if start is not None and end is not None and not start < end:
        row.problems.append(Problem("number", row.where, f"expected start before end, got {start} and {end}"))
    split = (row.text("split") or "").lower() or None
    split = SPLIT_NAMES.get(split, split) if split else None
    if split is not None and split not in SPLITS:
        row.problems.append(Problem("split", row.where, f"expected split in {SPLITS}, got {split!r}"))
        split = None
    audio, video = row.text("audio"), row.text("video")
    if "audio" not in row.cells:
        audio = video
    return Utterance(
        id=identifier or row.where,
        dataset=Custom.name,
        audio=None if audio is None else folder / audio,
        video=None if video is None else folder / video,
        text=row.text("text"),
        start=start,
        end=end,
        targets=targets,
        speaker=row.text("speaker"),
        dialogue=row.text("dialogue"),
        turn=None if turn is None else round(turn),
        session=row.text("session"),
        split=split,
        metadata={name: value for name, value in row.cells.items() if name and name not in COLUMNS and value},
    )
