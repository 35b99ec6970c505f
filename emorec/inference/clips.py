"""What is to be predicted: files, folders and tables, as utterances without targets."""

import logging
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from emorec.datasets.custom import COLUMNS, MODALITY_OF, utterance_of
from emorec.datasets.manifest import Problem
from emorec.datasets.tables import LARGEST_TABLE, read_any_table
from emorec.datasets.tree import files_below
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError, raise_problems
from emorec.storage.regular_files import read_regular

log = logging.getLogger(__name__)

TABLES = (".csv", ".tsv", ".parquet")
INPUT = "input"  # `dataset` of the utterances
UNREADABLE = "text cannot be read"  # key of the metadata that says why a transcript cannot be read


def read_clips(place: str | Path) -> list[Utterance]:
    """The clips of a file, a folder, a table, or of standard input.

    Files that differ in their suffix only are the modalities of one clip: `a.mp4` and its transcript `a.txt`. The sound
    of a video is used where there is no file of sound.

    Args:
        place: a media file or a text; a folder, of which all files below are read; a table (CSV, TSV, Parquet) with at
            least one of the columns `audio`, `video` (paths, relative to it) and `text`, and as in `dataset=custom`
            `id`, `start`, `end`, `speaker`, `dialogue` and `turn`; or "-" for a file in each line of standard input.

    Raises:
        UserError: there is no such place, or nothing in it can be used.
    """
    if str(place) == "-":
        return clips_of_files([Path(line.strip()) for line in sys.stdin if line.strip()])
    path = Path(place).expanduser()
    if path.is_dir():
        found = files_below(path)
        files = [file for file in found if file.suffix.lower() in MODALITY_OF]
        if not files:
            raise UserError(f"expected media or texts ({', '.join(MODALITY_OF)}) below {path}, found none")
        if len(files) < len(found):
            log.info("%d of %d files below %s are of other kinds", len(found) - len(files), len(found), path)
        return clips_of_files(files, path)
    if not path.exists():
        raise UserError(f"expected a file, a folder or a table, found nothing at {path}")
    if path.suffix.lower() in TABLES:
        return _of_table(path)
    transcript = path.with_suffix(".txt")
    return clips_of_files([path, transcript] if transcript.is_file() and transcript != path else [path])


def clips_of_files(files: Iterable[Path], folder: Path | None = None) -> list[Utterance]:
    """One utterance for the files of one name, by name. Its id is the path of the first, below `folder` if given.

    Raises:
        UserError: a file is of no known kind, or two files are the same modality of one clip; all problems at once.
    """
    named: dict[Path, dict[str, Path]] = defaultdict(dict)
    problems = []
    for file in files:
        modality = MODALITY_OF.get(file.suffix.lower())
        own = named[file.with_suffix("")]
        if modality is None:
            problems.append(f"expected one of {', '.join(MODALITY_OF)}, got {file}")
        elif modality in own:
            problems.append(f"expected one file of {modality} for a clip, got {own[modality]} and {file}")
        else:
            own[modality] = file
    raise_problems(INPUT, problems)
    return [_clip(own, folder) for _, own in sorted(named.items())]


def _clip(files: dict[str, Path], folder: Path | None) -> Utterance:
    video = files.get("video")
    shown = video or files.get("audio") or files["text"]
    text, reason = _transcript(files["text"]) if "text" in files else (None, None)
    return Utterance(
        id=str(shown if folder is None else shown.relative_to(folder)),
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
        return read_regular(path, most=LARGEST_TABLE).decode().strip(), None
    except UnicodeDecodeError as error:
        return None, f"expected UTF-8, got {error.reason} at byte {error.start}"
    except OSError as error:
        return None, error.strerror or str(error)


def _of_table(path: Path) -> list[Utterance]:
    found: list[Problem] = []
    rows = read_any_table(path, COLUMNS, found)
    columns = rows[0].cells if rows else {}
    if not found and not {"audio", "video", "text"} & set(columns):
        found.append(Problem("column", str(path), f"expected a column audio, video or text, found {list(columns)}"))
    clips = [utterance_of(row, {}, path.parent, identifier=str(number)) for number, row in enumerate(rows, 1)]
    seen: set[str] = set()
    for row, clip in zip(rows, clips, strict=True):
        if clip.id in seen:
            found.append(Problem("id", row.where, f"expected each id once, got {clip.id!r} again"))
        seen.add(clip.id)
    raise_problems(INPUT, [str(problem) for problem in found if problem.fatal])
    return clips
