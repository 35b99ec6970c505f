"""Annotation files of IEMOCAP: evaluations (consensus, votes and dimensions of each turn) and transcripts."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from emorec.datasets.manifest import Problem
from emorec.datasets.tables import LARGEST_TABLE
from emorec.storage.regular_files import read_regular

CODES = ("neu", "hap", "sad", "ang", "exc", "fru", "fea", "sur", "dis", "oth", "xxx")  # xxx: no consensus
DIMENSIONS = ("valence", "activation", "dominance")
NUMBER = r"(\d{1,6}(?:\.\d{1,9})?)"
SUMMARY = re.compile(rf"\[{NUMBER} - {NUMBER}\]\s+(\S+)\s+(\S+)\s+\[{NUMBER}, {NUMBER}, {NUMBER}\]")
SUMMARY_LAYOUT = "[start - end]<tab>name<tab>label<tab>[valence, activation, dominance]"
RATER = re.compile(r"C-E\d+:\s*([^(\t]*)")  # C-F1 and C-M1 are the actors' own ratings
TRANSCRIPT = re.compile(rf"(Ses0[1-5]\w+) \[{NUMBER}-{NUMBER}\]:(.*)")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The evaluation of one turn."""

    name: str  # of the utterance
    start: float  # seconds in the dialogue
    end: float  # seconds in the dialogue
    consensus: str  # one of `CODES`
    dimensions: tuple[float, float, float]  # mean ratings of valence, activation and dominance, nominally 1 to 5
    # the labels given by each outside rater, in lower case; a rater may give several
    ratings: list[tuple[str, ...]] = field(default_factory=list)


def read_evaluation(path: Path, problems: list[Problem]) -> list[Turn]:
    """The turns of an evaluation file. Malformed summary lines are added to `problems`."""
    turns: list[Turn] = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith("["):
            turns += _turn(line, f"{path.name}:{number}", problems)
        elif turns and (match := RATER.match(line)):
            labels = (label.strip().lower() for label in match[1].split(";"))
            turns[-1].ratings.append(tuple(dict.fromkeys(label for label in labels if label)))
    return turns


def _turn(line: str, where: str, problems: list[Problem]) -> list[Turn]:
    """The turn of a summary line; empty if the line has a problem."""
    match = SUMMARY.fullmatch(line)
    if match is None:
        problems.append(Problem("line", where, f"expected {SUMMARY_LAYOUT}, got {line!r}"))
        return []
    start, end, valence, activation, dominance = (float(match[group]) for group in (1, 2, 5, 6, 7))
    if match[4] not in CODES:
        problems.append(Problem("label", where, f"expected a label in {CODES}, got {match[4]!r}"))
    elif end <= start:
        problems.append(Problem("time", where, f"expected an end after the start, got {start} to {end} s"))
    else:
        dimensions = (valence, activation, dominance)
        return [Turn(name=match[3], start=start, end=end, consensus=match[4], dimensions=dimensions)]
    return []


def read_transcripts(path: Path) -> tuple[dict[str, str], int]:
    """The texts of a transcription file by utterance, and the number of lines that could not be parsed."""
    lines = [line for line in read_lines(path) if line]
    matches = [match for line in lines if (match := TRANSCRIPT.fullmatch(line))]
    return {match[1]: " ".join(match[4].split()) for match in matches}, len(lines) - len(matches)


def read_lines(path: Path) -> list[str]:
    """The stripped lines of a text file in UTF-8 or Windows-1252, since the release contains both."""
    content = read_regular(path, most=LARGEST_TABLE)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    return [line.strip() for line in text.split("\n")]
