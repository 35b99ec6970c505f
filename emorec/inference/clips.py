"""What is to be predicted: files, folders and tables, as utterances without targets."""

import logging
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from emorec.datasets.custom import COLUMNS, MODALITY_OF, utterance_of
from emorec.datasets.manifest import Problem
from emorec.datasets.tables import LARGEST_TABLE, Row, read_any_table
from emorec.datasets.tree import files_below
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError, raise_problems
from emorec.storage.regular_files import read_regular

log = logging.getLogger(__name__)

TABLES = (".csv", ".tsv", ".parquet")
STDIN = "-"
INPUT = "input"  # `dataset` of the utterances
UNREADABLE = "text cannot be read"  # key of the metadata that says why there is no transcript
LABELS = ("label", "target", "split", "session")  # columns that nothing is predicted by


def read_clips(source: str | Path) -> list[Utterance]:
    """The clips of a file, a folder, a table, or of standard input.

    Files that differ in their suffix only are the modalities of one clip: `a.mp4` and its transcript `a.txt`. The sound
    of a video is used where there is no file of sound. A second file of the same modality is a clip of its own.

    Args:
        source: a media file or a text; a folder, of which all files below are read but hidden ones, and texts without
            media beside media; a table (CSV, TSV, Parquet) with at least one of the columns `audio`, `video` (paths,
            relative to it) and `text`, and as in `dataset=custom` `id`, `start`, `end`, `speaker`, `dialogue` and
            `turn`; or "-" for a file in each line of standard input.

    Raises:
        UserError: there is no such file or folder, or nothing in it can be used.
    """
    if str(source) == STDIN:
        return _of_lines(sys.stdin)
    path = Path(source).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise UserError(f"expected a file, a folder or a table, found nothing at {path}")
    if path.suffix.lower() in TABLES:
        return _of_table(path)
    if path.suffix.lower() not in MODALITY_OF:
        raise UserError(f"input: expected one of {', '.join((*MODALITY_OF, *TABLES))}, got {path}")
    return clips_of_files(_with_transcripts([path]))


def _of_lines(lines: Iterable[str]) -> list[Utterance]:
    """The clips of the files that lines name; files of other kinds are left out."""
    named = dict.fromkeys(Path(line.strip()) for line in lines if line.strip())
    files = [path for path in named if path.suffix.lower() in MODALITY_OF]
    if len(files) < len(named):
        log.info("%d of %d files are of other kinds than %s", len(named) - len(files), len(named), list(MODALITY_OF))
    if not files:
        raise UserError(f"expected files ({', '.join(MODALITY_OF)}) on standard input, got none")
    return clips_of_files(_with_transcripts(files))


def _with_transcripts(files: Sequence[Path]) -> list[Path]:
    """The files, and those beside them that hold a transcript."""
    beside = (file.with_suffix(".txt") for file in files)
    return list(dict.fromkeys([*files, *(path for path in beside if path.is_file())]))


def _of_folder(folder: Path) -> list[Utterance]:
    below = files_below(folder)
    files = [
        path
        for path in below
        if path.suffix.lower() in MODALITY_OF
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise UserError(f"expected media or texts ({', '.join(MODALITY_OF)}) below {folder}, found none")
    if len(files) < len(below):
        log.info("%d of %d files below %s are hidden or of other kinds", len(below) - len(files), len(below), folder)
    clips = clips_of_files(files, folder)
    with_media = [clip for clip in clips if clip.audio is not None or clip.video is not None]
    if with_media and len(with_media) < len(clips):
        log.info("%d texts without media are left out, such as a README", len(clips) - len(with_media))
    return with_media or clips


def clips_of_files(files: Iterable[Path], folder: Path | None = None) -> list[Utterance]:
    """One utterance for the files of one name, by name. Its id is the path of the first, below `folder` if given."""
    named: dict[Path, dict[str, Path]] = defaultdict(dict)
    others = []
    for file in files:
        modality, own = MODALITY_OF[file.suffix.lower()], named[file.with_suffix("")]
        if own.setdefault(modality, file) != file:
            others.append({modality: file})
    return [_clip(own, folder) for own in (*(own for _, own in sorted(named.items())), *others)]


def _clip(files: dict[str, Path], folder: Path | None) -> Utterance:
    video = files.get("video")
    first = video or files.get("audio") or files["text"]
    text, reason = _transcript(files["text"]) if "text" in files else (None, None)
    name = str(first if folder is None else first.relative_to(folder))
    return Utterance(
        id=name.encode(errors="backslashreplace").decode(),  # names of files need not be UTF-8
        dataset=INPUT,
        audio=files.get("audio", video),
        video=video,
        text=text,
        targets={},
        metadata={} if reason is None else {UNREADABLE: reason},
    )


def _transcript(path: Path) -> tuple[str | None, str | None]:
    """The text of a file, or why it cannot be read: the clip is a row all the same."""
    try:
        return read_regular(path, most=LARGEST_TABLE).decode("utf-8-sig").strip(), None
    except UnicodeDecodeError as error:
        return None, f"expected UTF-8, got {error.reason} at byte {error.start}"
    except OSError as error:
        return None, error.strerror or str(error)


def _of_table(path: Path) -> list[Utterance]:
    problems: list[Problem] = []
    rows = [_without_labels(row) for row in read_any_table(path, COLUMNS, problems)]
    columns = rows[0].cells if rows else {}
    if not problems and not rows:
        problems.append(Problem("table", str(path), "expected rows, found none"))
    elif not problems and not {"audio", "video", "text"} & set(columns):
        detail = f"expected a column audio, video or text, found {list(columns)}"
        problems.append(Problem("column", str(path), detail))
    clips = [utterance_of(row, {}, path.parent, identifier=str(number)) for number, row in enumerate(rows, 1)]
    seen: set[str] = set()
    for row, clip in zip(rows, clips, strict=True):
        if clip.id in seen:
            problems.append(Problem("id", row.where, f"expected each id once, got {clip.id!r} again"))
        seen.add(clip.id)
    raise_problems(INPUT, [str(problem) for problem in problems if problem.fatal])
    return clips


def _without_labels(row: Row) -> Row:
    return replace(row, cells={name: cell for name, cell in row.cells.items() if name not in LABELS})
