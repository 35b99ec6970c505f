"""Everything `emorec data check` finds out about a corpus."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emorec.batch import MODALITIES
from emorec.training.validation import check_classes
from emorec.config.instantiation import instantiate
from emorec.datasets.labels import relabel
from emorec.datasets.manifest import Corpus, Manifest, Problem
from emorec.datasets.splits import speaker_overlap
from emorec.datasets.utterance import SPLITS, Utterance
from emorec.errors import UserError, choose
from emorec.media.audio import AudioSettings, audio_seconds
from emorec.media.frames import picture_of
from emorec.media.source import MediaError, Source
from emorec.media.text import read_text
from emorec.media.video import VideoSettings, read_video
from emorec.progress import Progress
from emorec.markdown import markdown_table
from emorec.storage.digests import FileDigests

PROBE = VideoSettings(frames=3, size=32)
SHOWN = 20
END_TOLERANCE = 0.25  # seconds: annotators round


@dataclass(kw_only=True)
class Checkup:
    """What was found.

    Attributes:
        dataset: the corpus.
        protocol: how it is split, with the fold.
        utterances: how many.
        counts: {split: {label: utterances}}.
        values: {split: {"count", "mean", "deviation", "smallest", "largest"}} of a task of regression.
        seconds: {modality: total, shortest and longest}, of what can be decoded.
        modalities: {modality: utterances that state it}.
        problems: everything wrong.
        speakers: how many are named.
        overlap: speakers in more than one split.
        leaks: {"dialogues" and "sentences": how many are in more than one split}.
        parts_speakers: whether the protocol promises that there are none.
        notes: of the corpus.
    """

    dataset: str
    protocol: str
    utterances: int
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    modalities: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    speakers: int = 0
    overlap: list[str] = field(default_factory=list)
    leaks: dict[str, int] = field(default_factory=dict)
    parts_speakers: bool = False
    notes: tuple[str, ...] = ()

    @property
    def fatal(self) -> bool:
        return any(problem.fatal for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "problems": [vars(problem) for problem in self.problems], "fatal": self.fatal}


def check(config: Mapping[str, Any]) -> Checkup:
    """Reads the whole corpus of a config, decodes every file, and splits it."""
    corpus = instantiate(config["dataset"], where="dataset", kind=Corpus)  # type: ignore[type-abstract]
    manifest = corpus.scan()
    if config.get("labels"):
        manifest = relabel(manifest, corpus.task, config["labels"])
    fold = "" if corpus.fold is None else f" fold {corpus.fold}"
    checkup = Checkup(
        dataset=manifest.dataset,
        protocol=f"{corpus.protocol}{fold}",
        utterances=len(manifest.utterances),
        speakers=len({item.speaker for item in manifest.utterances} - {None}),
        problems=list(manifest.problems),
        notes=manifest.notes,
    )
    split_of = {} if checkup.fatal else _check_splits(checkup, corpus, manifest)  # nothing to split where it is fatal
    _check_media(checkup, manifest, config["extraction"])
    _check_duplicates(checkup, manifest, split_of)
    return checkup


def _check_splits(checkup: Checkup, corpus: Corpus, manifest: Manifest) -> dict[str, str]:
    try:
        task = corpus.chosen_task(manifest)
        rule = choose(manifest.protocols, corpus.protocol, f"dataset.protocol (dataset={corpus.name})")
        checkup.parts_speakers = rule.speaker_independent
        splits = corpus.split(manifest)
        check_classes(task, splits)
    except UserError as error:
        checkup.problems.append(Problem("split", checkup.protocol, str(error)))
        return {}
    for split in SPLITS:
        targets = [item.targets[task.name] for item in splits[split]]
        if task.kind == "regression":
            checkup.values[split] = _distribution([value for value in targets if isinstance(value, int | float)])
        else:
            found = Counter(targets)
            checkup.counts[split] = {label: found[number] for number, label in enumerate(task.labels)}
    checkup.overlap = speaker_overlap(splits)
    checkup.leaks = {
        "dialogues": _recurring(splits, lambda item: item.dialogue),
        "recordings": _recurring(splits, lambda item: str(path) if (path := item.audio or item.video) else None),
        "sentences": _recurring(splits, lambda item: item.text and item.text.strip().casefold()),
    }
    return {item.id: split for split, items in splits.items() for item in items}


def _distribution(values: Sequence[float]) -> dict[str, float]:
    mean = statistics.fmean(values)
    return {
        "count": len(values),
        "mean": mean,
        "deviation": statistics.pstdev(values, mean),
        "smallest": min(values),
        "largest": max(values),
    }


def _recurring(splits: Mapping[str, Sequence[Utterance]], what: Callable[[Utterance], str | None]) -> int:
    """How many of something are in more than one split."""
    found: dict[str, set[str]] = defaultdict(set)
    for split, items in splits.items():
        for item in items:
            if key := what(item):
                found[key].add(split)
    return sum(len(names) > 1 for names in found.values())


def _check_media(checkup: Checkup, manifest: Manifest, extraction: Mapping[str, Any]) -> None:
    """Decodes every file; a bad one is fatal where extraction would fail on it."""
    fatal = extraction["on_bad_media"] == "fail"
    settings = AudioSettings()

    def probe(item: tuple[Utterance, str]) -> tuple[float | None, Problem | None]:
        """Length in seconds, where it is told, and what is wrong."""
        utterance, modality = item
        path = None if modality == "text" else getattr(utterance, modality)
        start, end = utterance.segment(modality)
        source = Source(modality=modality, path=path, start=start, end=end, crop=utterance.crop)
        seconds, file_end = None, 0.0
        try:
            if modality == "audio":
                seconds = audio_seconds(source, settings)
                file_end = (start or 0.0) + seconds
            elif modality == "video":
                read_video(source, PROBE)
                assert path is not None
                file_end = picture_of(path).seconds
            else:
                read_text(Source(modality="text", text=utterance.text))
        except MediaError as error:
            return None, Problem("broken", utterance.id, f"{modality}: {error}{f' ({path})' if path else ''}", fatal)
        except OSError as error:
            return None, Problem("missing", utterance.id, f"{modality}: {error.strerror or error} ({path})", fatal)
        if end is not None and file_end and end > file_end + END_TOLERANCE:
            detail = (
                f"{modality}: expected the end at {end:g} s within the file, which ends at {file_end:.2f} s ({path})"
            )
            return seconds, Problem("segment", utterance.id, detail, fatal=False)
        return seconds, None

    stated = [(item, name) for name in MODALITIES for item in manifest.utterances if getattr(item, name) is not None]
    checkup.modalities = {name: sum(modality == name for _, modality in stated) for name in MODALITIES}
    lengths: dict[str, list[float]] = defaultdict(list)
    bar = Progress("decoding", len(stated), extraction["progress"])
    with ThreadPoolExecutor(extraction["workers"]) as pool, bar:
        for (_, modality), (seconds, problem) in zip(stated, pool.map(probe, stated), strict=True):
            bar.advance()
            checkup.problems += [] if problem is None else [problem]
            lengths[modality] += [] if seconds is None else [seconds]
    for modality, values in lengths.items():
        if not values:
            continue
        checkup.seconds[modality] = {"total": sum(values), "shortest": min(values), "longest": max(values)}


def _check_duplicates(checkup: Checkup, manifest: Manifest, split_of: Mapping[str, str]) -> None:
    """The same content twice: a warning, and fatal across the splits of a protocol that parts speakers."""
    digests = FileDigests()
    for modality in ("audio", "video"):
        found: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for item in manifest.utterances:
            path: Path | None = getattr(item, modality)
            if path is not None and path.is_file():
                found[digests.digest(path), *item.segment(modality), item.crop].append(item.id)
        checkup.problems += _duplicates(found.values(), modality, split_of, checkup.parts_speakers)


def _duplicates(
    groups: Iterable[list[str]], modality: str, split_of: Mapping[str, str], fatal_across: bool
) -> Iterable[Problem]:
    for group in groups:
        names = list(dict.fromkeys(group))  # an id that is there twice is told of as that
        if len(names) > 1:
            splits = sorted({split_of[name] for name in names if name in split_of})
            across = f", across {' and '.join(splits)}" if len(splits) > 1 else ""
            detail = f"the same {modality} as {', '.join(names[1:])}{across}"
            yield Problem("duplicate", names[0], detail, fatal_across and len(splits) > 1)


def tell(checkup: Checkup) -> str:
    """A checkup as text."""
    lines = [f"{checkup.dataset}: {checkup.utterances} utterances, {checkup.protocol}"]
    lines += [f"note: {note}" for note in checkup.notes]
    if checkup.counts:
        labels = list(next(iter(checkup.counts.values())))
        rows = [
            [split, *(str(row[label]) for label in labels), str(sum(row.values()))]
            for split, row in checkup.counts.items()
        ]
        lines += ["", markdown_table(["split", *labels, "all"], rows), ""]
    if checkup.values:
        names = list(next(iter(checkup.values.values())))
        rows = [[split, *(f"{row[name]:g}" for name in names)] for split, row in checkup.values.items()]
        lines += ["", markdown_table(["split", *names], rows), ""]
    for modality, count in checkup.modalities.items():
        length = checkup.seconds.get(modality)
        told = (
            ""
            if length is None
            else (f", {length['total'] / 3600:.2f} h decoded, {length['shortest']:.2f} to {length['longest']:.2f} s")
        )
        lines.append(f"{modality}: {count} utterances{told}")
    promise = "speaker-independent" if checkup.parts_speakers else "speakers may recur"
    known = f"{len(checkup.overlap)} of {checkup.speakers} ({promise})"
    lines.append(f"speakers in more than one split: {known if checkup.speakers else 'unknown, for none is named'}")
    lines += [f"{name} in more than one split: {count}" for name, count in checkup.leaks.items()]
    kinds = Counter((problem.kind, problem.fatal) for problem in checkup.problems)
    for (kind, fatal), count in sorted(kinds.items()):
        lines.append(f"{kind}: {count}{' (fatal)' if fatal else ''}")
    shown = sorted(checkup.problems, key=lambda problem: not problem.fatal)
    lines += [f"  - {'fatal: ' if problem.fatal else ''}{problem}" for problem in shown[:SHOWN]]
    if len(shown) > SHOWN:
        lines.append(f"  … and {len(shown) - SHOWN} more (--json lists all)")
    lines.append("fatal problems: mend them before training" if checkup.fatal else "nothing fatal")
    return "\n".join(lines)
