"""The annotation files of IEMOCAP: turns with consensus, raters' votes and dimensions; transcripts."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from emorec.datasets.manifest import Problem

CODES = ("neu", "hap", "sad", "ang", "exc", "fru", "fea", "sur", "dis", "oth", "xxx")  # xxx: no consensus
DIMENSIONS = ("valence", "activation", "dominance")
NUMBER = r"(\d+(?:\.\d+)?)"
SUMMARY = re.compile(rf"\[{NUMBER} - {NUMBER}\]\s+(\S+)\s+(\S+)\s+\[{NUMBER}, {NUMBER}, {NUMBER}\]")
SUMMARY_LAYOUT = "[start - end]<tab>name<tab>label<tab>[valence, activation, dominance]"
RATER = re.compile(r"C-E\d+:\s*([^(\t]*)")  # C-F1 and C-M1 are the actors' own ratings
TRANSCRIPT = re.compile(rf"(Ses0[1-5]\w+) \[{NUMBER}-{NUMBER}\]:(.*)")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What the evaluation says of one turn.

    Attributes:
        name: the utterance's name.
        start: seconds into the dialogue.
        end: seconds into the dialogue.
        consensus: one of `CODES`.
        dimensions: valence, activation and dominance, the raters' means, nominally 1 to 5.
        ratings: the words of each outside rater, in lower case; a rater may give several.
    """

    name: str
    start: float
    end: float
    consensus: str
    dimensions: tuple[float, float, float]
    ratings: list[tuple[str, ...]] = field(default_factory=list)


def read_evaluation(path: Path, problems: list[Problem]) -> list[Turn]:
    """The turns of an evaluation file; lines that look like a summary and are none go to `problems`."""
    turns: list[Turn] = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith("["):
            turn, problem = _turn(line, f"{path.name}:{number}")
            turns += [turn] if turn is not None else []
            problems += [problem] if problem is not None else []
        elif turns and (match := RATER.match(line)):
            words = (word.strip().lower() for word in match[1].split(";"))
            turns[-1].ratings.append(tuple(dict.fromkeys(word for word in words if word)))
    return turns


def _turn(line: str, where: str) -> tuple[Turn | None, Problem | None]:
    match = SUMMARY.fullmatch(line)
    if match is None:
        return None, Problem("line", where, f"expected {SUMMARY_LAYOUT}, got {line!r}")
    if match[4] not in CODES:
        return None, Problem("label", where, f"expected a label in {CODES}, got {match[4]!r}")
    start, end, *dimensions = (float(match[group]) for group in (1, 2, 5, 6, 7))
    if end <= start:
        return None, Problem("time", where, f"expected an end after the start, got {start} to {end} s")
    valence, activation, dominance = dimensions
    turn = Turn(name=match[3], start=start, end=end, consensus=match[4], dimensions=(valence, activation, dominance))
    return turn, None


def read_transcripts(path: Path) -> tuple[dict[str, str], int]:
    """The texts of a transcription file by utterance, and how many lines are none."""
    texts = {}
    unparsed = 0
    for line in read_lines(path):
        if match := TRANSCRIPT.fullmatch(line):
            texts[match[1]] = " ".join(match[4].split())
        elif line:
            unparsed += 1
    return texts, unparsed


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without space around them; the few that are not ASCII are of either encoding."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    return [line.strip() for line in text.split("\n")]
