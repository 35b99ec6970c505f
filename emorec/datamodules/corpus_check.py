"""Checks a corpus: `emorec data check`."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emorec.batch import MODALITIES
from emorec.config.schema import DataConfig, ExtractionConfig
from emorec.datamodules.split_checks import check_classes
from emorec.datasets.labels import relabel
from emorec.datasets.manifest import Corpus, Manifest, Problem
from emorec.datasets.names import name_key
from emorec.datasets.splits import speaker_overlap
from emorec.datasets.utterance import SPLITS, Utterance
from emorec.errors import UserError, choose
from emorec.markdown import markdown_table
from emorec.media.audio import AudioSettings, audio_seconds
from emorec.media.decoding_process import DecodingProcesses
from emorec.media.source import MediaError, Source
from emorec.media.text import read_text
from emorec.media.video import VideoSettings, read_video
from emorec.progress import Progress
from emorec.storage.digests import FileDigests

PROBE = VideoSettings(frames=3, size=64)  # pixels; decoders scale to it themselves
SHOWN = 20  # number of problems in the text
END_TOLERANCE = 0.25  # seconds: annotators round


@dataclass(kw_only=True)
class CorpusCheck:
    """The result of a check."""

    dataset: str
    protocol: str  # of the split, with the fold
    utterances: int
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # {split: {label: utterances}}, classification
    # {split: {"count", "mean", "deviation", "smallest", "largest"}} for regression
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    # {modality: {"total", "shortest", "longest"}} of the media that can be decoded
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    modalities: dict[str, int] = field(default_factory=dict)  # {modality: number of utterances that have it}
    problems: list[Problem] = field(default_factory=list)
    speakers: int = 0  # number of named speakers
    overlap: list[str] = field(default_factory=list)  # speakers in more than one split
    leaks: dict[str, int] = field(default_factory=dict)  # {"dialogues", "recordings" or "sentences": in several splits}
    parts_speakers: bool = False  # whether the protocol promises splits without common speakers
    notes: tuple[str, ...] = ()

    @property
    def fatal(self) -> bool:
        return any(problem.fatal for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "problems": [vars(problem) for problem in self.problems], "fatal": self.fatal}

    def as_text(self) -> str:
        """The result as text."""
        lines = [f"{self.dataset}: {self.utterances} utterances, {self.protocol}"]
        lines += [f"note: {note}" for note in self.notes]
        if self.counts:
            labels = list(next(iter(self.counts.values())))
            rows = [
                [split, *(str(row[label]) for label in labels), str(sum(row.values()))]
                for split, row in self.counts.items()
            ]
            lines += ["", markdown_table(["split", *labels, "all"], rows), ""]
        if self.values:
            names = list(next(iter(self.values.values())))
            rows = [[split, *(f"{row[name]:g}" for name in names)] for split, row in self.values.items()]
            lines += ["", markdown_table(["split", *names], rows), ""]
        for modality, count in self.modalities.items():
            length = self.seconds.get(modality)
            hours = "" if length is None else f", {length['total'] / 3600:.2f} h decoded"
            extremes = "" if length is None else f", {length['shortest']:.2f} to {length['longest']:.2f} s"
            lines.append(f"{modality}: {count} utterances{hours}{extremes}")
        promise = "speaker-independent" if self.parts_speakers else "speakers may recur"
        overlap = f"{len(self.overlap)} of {self.speakers} ({promise})"
        lines.append(f"speakers in more than one split: {overlap if self.speakers else 'unknown, as none is named'}")
        lines += [f"{name} in more than one split: {count}" for name, count in self.leaks.items()]
        kinds = Counter((problem.kind, problem.fatal) for problem in self.problems)
        for (kind, fatal), count in sorted(kinds.items()):
            lines.append(f"{kind}: {count}{' (fatal)' if fatal else ''}")
        shown = sorted(self.problems, key=lambda problem: not problem.fatal)
        lines += [f"  - {'fatal: ' if problem.fatal else ''}{problem}" for problem in shown[:SHOWN]]
        if len(shown) > SHOWN:
            lines.append(f"  … and {len(shown) - SHOWN} more (--json lists all)")
        lines.append("fix the fatal problems before training" if self.fatal else "nothing fatal")
        return "\n".join(lines)


def check_corpus(config: DataConfig) -> CorpusCheck:
    """Reads and splits the corpus of a config, and decodes all its files."""
    corpus = config.dataset.make(Corpus)  # type: ignore[type-abstract]
    manifest = corpus.with_random(corpus.scan())
    if config.labels:
        manifest = relabel(manifest, corpus.task, config.labels)
    fold = "" if corpus.fold is None else f" fold {corpus.fold}"
    result = CorpusCheck(
        dataset=manifest.dataset,
        protocol=f"{corpus.protocol}{fold}",
        utterances=len(manifest.utterances),
        speakers=len({item.speaker for item in manifest.utterances} - {None}),
        problems=list(manifest.problems),
        notes=manifest.notes,
    )
    split_of = {} if result.fatal else _check_splits(result, corpus, manifest)
    _check_media(result, manifest, config.extraction)
    _check_duplicates(result, manifest, split_of)
    return result


def _check_splits(result: CorpusCheck, corpus: Corpus, manifest: Manifest) -> dict[str, str]:
    try:
        task = corpus.chosen_task(manifest)
        rule = choose(manifest.protocols, corpus.protocol, f"dataset.protocol (dataset={corpus.name})")
        result.parts_speakers = rule.separates_speakers
        splits = corpus.split(manifest)
        check_classes(task, splits)
    except UserError as error:
        result.problems.append(Problem("split", result.protocol, str(error)))
        return {}
    for split in SPLITS:
        targets = [item.targets[task.name] for item in splits[split]]
        if task.kind == "regression":
            result.values[split] = _distribution([value for value in targets if isinstance(value, int | float)])
        else:
            counts = Counter(targets)
            result.counts[split] = {label: counts[index] for index, label in enumerate(task.labels)}
    result.overlap = speaker_overlap(splits)
    result.leaks = {
        "dialogues": _recurring(splits, lambda item: item.dialogue),
        "recordings": _recurring(splits, lambda item: str(path) if (path := item.audio or item.video) else None),
        "sentences": _recurring(splits, lambda item: item.text and name_key(item.text)),
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


def _recurring(splits: Mapping[str, Sequence[Utterance]], key_of: Callable[[Utterance], str | None]) -> int:
    """The number of keys that are in more than one split."""
    splits_of: dict[str, set[str]] = defaultdict(set)
    for split, items in splits.items():
        for item in items:
            if key := key_of(item):
                splits_of[key].add(split)
    return sum(len(names) > 1 for names in splits_of.values())


def _check_media(result: CorpusCheck, manifest: Manifest, extraction: ExtractionConfig) -> None:
    """Decodes all files; a bad file is fatal if extraction would fail on it."""
    fatal = extraction.on_bad_media == "fail"
    settings = AudioSettings()

    def probe(item: tuple[Utterance, str]) -> tuple[float | None, Problem | None]:
        """Length in seconds, if it is known, and the problem, if there is one."""
        utterance, modality = item
        path = None if modality == "text" else getattr(utterance, modality)
        start, end = utterance.segment(modality)
        source = Source(modality=modality, path=path, start=start, end=end, crop=utterance.crop, processes=processes)
        seconds, file_end = None, 0.0
        try:
            if modality == "audio":
                seconds = audio_seconds(source, settings)
                file_end = (start or 0.0) + seconds
            elif modality == "video":
                read_video(source, PROBE)
                assert path is not None
                file_end = processes.stated_seconds(path)
            else:
                read_text(Source(modality="text", text=utterance.text))
        except MediaError as error:
            return None, Problem("broken", utterance.id, f"{modality}: {error}{f' ({path})' if path else ''}", fatal)
        except OSError as error:
            return None, Problem("missing", utterance.id, f"{modality}: {error.strerror or error} ({path})", fatal)
        if end is not None and file_end and end > file_end + END_TOLERANCE:
            within = f"expected the end at {end:g} s within the file, which ends at {file_end:.2f} s"
            return seconds, Problem("segment", utterance.id, f"{modality}: {within} ({path})", fatal=False)
        return seconds, None

    stated = [(item, name) for name in MODALITIES for item in manifest.utterances if getattr(item, name) is not None]
    result.modalities = {name: sum(modality == name for _, modality in stated) for name in MODALITIES}
    lengths: dict[str, list[float]] = defaultdict(list)
    processes = DecodingProcesses(seconds=extraction.clip_seconds, most_bytes=extraction.clip_bytes)
    bar = Progress("decoding", len(stated), extraction.progress)
    with ThreadPoolExecutor(extraction.workers) as pool, processes, bar:
        for (_, modality), (seconds, problem) in zip(stated, pool.map(probe, stated), strict=True):
            bar.advance()
            result.problems += [] if problem is None else [problem]
            lengths[modality] += [] if seconds is None else [seconds]
    for modality, values in lengths.items():
        if values:
            result.seconds[modality] = {"total": sum(values), "shortest": min(values), "longest": max(values)}


def _check_duplicates(result: CorpusCheck, manifest: Manifest, split_of: Mapping[str, str]) -> None:
    """Reports equal content; it is fatal across the splits of a protocol that separates speakers."""
    digests = FileDigests()
    for modality in ("audio", "video"):
        groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)  # {content: utterances}
        for item in manifest.utterances:
            path: Path | None = getattr(item, modality)
            with suppress(OSError):  # such a file is reported as missing
                if path is not None:
                    groups[digests.digest(path), *item.segment(modality), item.crop].append(item.id)
        for first, *others in (dict.fromkeys(names) for names in groups.values()):  # a repeated id is reported as such
            if others:
                splits = sorted({split_of[name] for name in (first, *others) if name in split_of})
                across = f", across {' and '.join(splits)}" if len(splits) > 1 else ""
                detail = f"the same {modality} as {', '.join(others)}{across}"
                fatal = result.parts_speakers and len(splits) > 1
                result.problems.append(Problem("duplicate", first, detail, fatal))
