"""Any corpus that is described by a table or by one folder for each label, without Python code."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge

from emorec.annotations import Count, PositiveCount
from emorec.datasets.manifest import Corpus, Manifest, Problem
from emorec.datasets.names import name_key, spellings
from emorec.datasets.split_builders import BUILDERS, add_validation, why_speakers_overlap
from emorec.datasets.splits import ListedFolds, Protocol
from emorec.datasets.tables import LARGEST_TABLE, MOST_DIGITS, Row, read_any_table
from emorec.datasets.utterance import SPLITS, Target, Task, Utterance
from emorec.errors import UserError
from emorec.storage.regular_files import read_regular, require_regular

COLUMNS = (
    *("id", "audio", "video", "text", "start", "end"),
    *("label", "target", "speaker", "dialogue", "turn", "session", "split"),
)
NAMES = ("label", "speaker", "dialogue", "session")  # columns in which spellings of one name are one
SPLIT_NAMES = {"dev": "val", "valid": "val", "validation": "val", "training": "train", "testing": "test"}
MODALITY_OF = {
    **dict.fromkeys((".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".wma", ".amr"), "audio"),
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".flv", ".wmv", ".mpg", ".mpeg"), "video"),
    **dict.fromkeys((".ts", ".mts", ".m2ts", ".mxf", ".3gp"), "video"),
    ".txt": "text",
}


@dataclass(kw_only=True)
class Custom(Corpus):
    """A corpus described by a table (CSV, TSV or Parquet), or by a folder of labelled subfolders.

    Columns: `id`; at least one of `audio`, `video` (paths, relative to the table) and `text`; `label` (a word) or
    `target` (a number); and, all optional, `start` and `end` (seconds into the media), `speaker`, `dialogue`, `turn`,
    `session`, `split`. Other columns become metadata. Without a column `audio`, the sound is that of the video. Without
    a table, each file in a subfolder of `root` is an utterance labelled with the name of the subfolder; files with the
    same name are its modalities.

    Labels, speakers, dialogues and sessions that differ only in Unicode form, capitals, spaces, invisible characters,
    or as `1`, `1.0` and `01` do, are one; a note lists them.

    Args:
        table: the table; `None` for labelled subfolders of `root`.
        root: folder of labelled subfolders, or the folder of a relative `table`.
        task: name of the label or target.
        protocol: "given" takes the splits of the table (without val, a part of train becomes val); "stratified",
            "group_k_fold" and "leave_one_speaker_out" build splits; "auto" is the first of "given", "group_k_fold" and
            "stratified" that the table allows.
        fold: the fold of built splits.
        folds: number of folds to build; at least three, for train, val and test.
        split_seed: seed of built splits.
        label_order: the labels in the order of their numbers; `None` for all labels, sorted.
        monitor: the metric that selects the best epoch; `None` for uar, or ccc for targets.
        largest_table: bytes of the table, and of its cells as text; a larger one is refused.
    """

    name: ClassVar[str] = "custom"
    origin: ClassVar[str] = "Or describe it by a table: dataset.table=my_corpus.csv."

    table: str | None = None
    folds: Annotated[int, Ge(3)] = 5
    split_seed: Count = 0
    label_order: Sequence[str | int | float] | None = None
    monitor: str | None = None
    largest_table: PositiveCount = LARGEST_TABLE

    def scan(self) -> Manifest:
        problems: list[Problem] = []
        rows: Sequence[Row] = self._table_rows(problems) if self.table is not None else self._folder_rows(problems)
        rows, notes = self._with_one_spelling(rows)
        utterances, task = self._utterances(rows, problems)
        columns = {name for row in rows for name in row.cells if name}
        if unknown := sorted(columns - set(COLUMNS)):
            names = ", ".join(name + _suggestion(name, columns) for name in unknown)
            notes.append(f"columns kept as metadata, for they have no other meaning: {names}")
        if {"label", "target"} <= columns:
            notes.append("label is predicted; target is ignored")
        manifest = self.build_manifest(utterances, {self.task: task}, {}, problems, notes)
        if any(problem.fatal for problem in manifest.problems):  # no splits can be built
            return manifest
        rule, note = self._rule(manifest.utterances)
        return replace(manifest, protocols={self.protocol: rule}, notes=(note, *notes))

    def split(self, manifest: Manifest, task: Task | None = None) -> dict[str, tuple[Utterance, ...]]:
        """See `Corpus.split`. For given splits, fold 0 is the only fold."""
        rule = manifest.protocols.get(self.protocol)
        if rule is not None and rule.folds == 0 and self.fold == 0:
            return replace(self, fold=None).split(manifest, task)
        return super().split(manifest, task)

    def _table_rows(self, problems: list[Problem]) -> list[Row]:
        path = self._table_path
        if not path.exists():
            raise UserError(f"expected the table {path}, found no such file (dataset=custom; set dataset.table)")
        require_regular(path)
        rows = read_any_table(path, COLUMNS, problems, largest=self.largest_table)
        if not rows and not any(problem.fatal for problem in problems):
            problems.append(Problem("table", str(path), "expected rows, found none"))
        if not rows:
            return []
        columns = list(rows[0].cells)
        if "id" not in columns:
            problems.append(Problem("column", str(path), f"expected a column id, found {columns}"))
            return []
        if not {"label", "target"} & set(columns):
            problems.append(Problem("column", str(path), f"expected a column label or target, found {columns}"))
        return rows

    @property
    def _table_path(self) -> Path:
        path = Path(str(self.table)).expanduser()
        return path if path.is_absolute() or path.is_file() else self.folder / path

    def _folder_rows(self, problems: list[Problem]) -> list[Row]:
        self.require_folder()
        cells_of: dict[str, dict[str, str]] = defaultdict(dict)
        for file in self.files():
            path = file.relative_to(self.folder)
            column = MODALITY_OF.get(path.suffix.lower())
            if column is None or len(path.parts) < 2 or any(part.startswith(".") for part in path.parts):
                continue
            cells = cells_of[path.with_suffix("").as_posix()]
            if column in cells:
                detail = f"expected one {column} file of this name, found {path.name} as well"
                problems.append(Problem("duplicate", str(path), detail))
            try:
                is_text = column == "text"
                cells[column] = read_regular(file, most=self.largest_table).decode().strip() if is_text else str(path)
            except UnicodeDecodeError as error:
                problems.append(Problem("encoding", str(path), f"expected UTF-8, got {error}"))
            except OSError as error:
                problems.append(Problem("file", str(path), str(error.strerror)))
        if any({"audio", "video"} & cells.keys() for cells in cells_of.values()):
            # in a corpus with media, a text without media is no utterance, such as a README
            cells_of = {name: cells for name, cells in cells_of.items() if cells.keys() != {"text"}}
        if not cells_of:
            raise UserError(f"expected labelled subfolders with media in {self.folder}, found none (dataset=custom)")
        return [
            Row(name, {"id": name, "label": name.split("/")[0], **cells}, problems)
            for name, cells in sorted(cells_of.items())
        ]

    def _with_one_spelling(self, rows: Sequence[Row]) -> tuple[Sequence[Row], list[str]]:
        """The rows with each name spelled in one way, and notes on the names that were spelled in several."""
        replaced, notes = {}, []
        for column in NAMES:
            preferred = list(map(str, self.label_order or ())) if column == "label" else []
            changed = spellings((text for row in rows if (text := row.text(column))), preferred)
            replaced[column] = changed
            if changed:
                notes.append(f"spellings of one {column}: {', '.join(_merged(changed))}")
        if notes:
            rows = [replace(row, cells=dict(_respelled(row, replaced))) for row in rows]
        return rows, notes

    def _utterances(self, rows: Sequence[Row], problems: list[Problem]) -> tuple[list[Utterance], Task]:
        regression = bool(rows) and "label" not in rows[0].cells
        labels: tuple[str, ...] = (self.task,)
        if not regression:
            names = sorted({text for row in rows if (text := row.text("label"))})
            labels = tuple(names) if self.label_order is None else tuple(map(str, self.label_order))
            if len(set(map(name_key, labels))) < len(labels) or (self.label_order is not None and not labels):
                got = f"got {self.label_order!r}"
                raise UserError(f"expected dataset.label_order to be a list of different labels, {got}")
            if rows and not names:
                problems.append(Problem("label", rows[0].where, "expected a label in some row, found none in any"))
        folder = self._table_path.parent if self.table is not None else self.folder
        utterances = []
        for row in rows:
            target = row.number("target") if regression else row.index("label", labels) if row.text("label") else None
            utterances.append(utterance_of(row, {} if target is None else {self.task: target}, folder))
        monitor = self.monitor or ("ccc" if regression else "uar")
        task = Task(
            name=self.task,
            kind="regression" if regression else "classification",
            labels=labels,
            monitor=monitor,
            direction="min" if monitor in ("loss", "mae", "rmse") else "max",
        )
        return utterances, task

    def _rule(self, utterances: Sequence[Utterance]) -> tuple[Protocol, str]:
        """The configured protocol and a note on it."""
        given = any(item.split is not None for item in utterances)
        speakers = {item.speaker for item in utterances}
        name = self.protocol
        if name == "auto":
            grouped = None not in speakers and len(speakers) >= self.folds
            name = "given" if given else "group_k_fold" if grouped else "stratified"
        if name == "given":
            if not given:
                raise UserError("expected a column split in the table for dataset.protocol=given, found none")
            split_of = {item.id: item.split for item in utterances if item.split is not None}
            rest = len(utterances) - len(split_of)
            left_out = f"; {rest} utterances without one are left out" if rest else ""
            if "val" in split_of.values():
                return ListedFolds((split_of,)), f"splits are the table's{left_out}"
            split_of = add_validation(utterances, self.split_seed)
            return ListedFolds((split_of,)), f"splits are the table's, with a part of train as val{left_out}"
        if name not in BUILDERS:
            raise UserError(f"expected dataset.protocol in {('auto', 'given', *BUILDERS)}, got {self.protocol!r}")
        rule = BUILDERS[name](utterances, self.task, self.folds, self.split_seed)
        why = why_speakers_overlap(utterances, self.folds) if name != self.protocol else ""
        return rule, f"splits are made: {name}{why}, {rule.folds} folds, seed {self.split_seed}"


def _merged(spelling_of: dict[str, str]) -> Iterator[str]:
    """For each name its spelling, then what counts as the same; escaped where they look alike."""
    for name in sorted(set(spelling_of.values())):
        others = sorted(spelling for spelling, chosen in spelling_of.items() if chosen == name)
        yield f"{name!a} (also {', '.join(map(ascii, others))})"


def _respelled(row: Row, spellings_of: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    for column, cell in row.cells.items():
        yield column, spellings_of.get(column, {}).get(cell.strip(), cell)


def _suggestion(name: str, columns: Collection[str]) -> str:
    """A question if the name is close to that of an absent column."""
    matches = get_close_matches(name.strip().lower(), [column for column in COLUMNS if column not in columns], 1, 0.75)
    return f" (did you mean {matches[0]}?)" if matches else ""


def utterance_of(row: Row, targets: dict[str, Target], folder: Path, *, identifier: str | None = None) -> Utterance:
    """The utterance of a row with the columns of `Custom`.

    Args:
        row: its problems are added to.
        targets: of the utterance.
        folder: of relative paths.
        identifier: for a row without an id; `None` where each needs one.
    """
    identifier = row.text("id") or identifier
    if identifier is None:
        row.problems.append(Problem("id", row.where, "expected an id, got none"))
    start, end, turn = row.seconds("start"), row.seconds("end"), row.number("turn")
    if turn is not None and abs(turn) >= 10**MOST_DIGITS:
        row.reject("number", "turn", f"of at most {MOST_DIGITS} digits")
        turn = None
    if start is not None and end is not None and not start < end:
        row.problems.append(Problem("number", row.where, f"expected start before end, got {start} and {end}"))
    name = (row.text("split") or "").lower()
    split = SPLIT_NAMES.get(name, name) or None
    if split is not None and split not in SPLITS:
        row.reject("split", "split", f"in {SPLITS}")
        split = None
    video = row.text("video")
    audio = row.text("audio") if "audio" in row.cells else video
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
