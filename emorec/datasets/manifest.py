"""Manifests: the utterances, tasks and problems of a corpus, and the base class of corpus readers."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from emorec.annotations import Count, PositiveCount
from emorec.config.texts import text_problem
from emorec.datasets.split_builders import stratified
from emorec.datasets.splits import Protocol, assign_splits
from emorec.datasets.tree import files_below
from emorec.datasets.utterance import SPLITS, UNLABELLED, VOTES, Target, Task, Utterance
from emorec.errors import UserError, choose, raise_problems
from emorec.storage.digests import digest_of

LONGEST_REMARK = 120  # characters
RANDOM, RANDOM_FOLDS = "random", 5  # a protocol of every corpus: utterances at random, speakers in train and test
TEXTS = ("id", "text", "speaker", "dialogue", "session")  # of an utterance


@dataclass(frozen=True)
class Problem:
    """A problem in a corpus."""

    kind: str  # a category to count by, such as "missing", "duplicate" or "label"
    where: str  # the id of the utterance, or the file and line
    detail: str  # what was expected and what was found
    fatal: bool = True  # whether the problem must be fixed before training

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}".replace("\n", "\\n")


@dataclass(frozen=True)
class Part:
    """A part of a corpus that its authors offer for download."""

    path: str  # a file, or a folder, in their record
    source: str = ""  # key of the record in the config's `sources`; empty for the corpus's name


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole corpus."""

    dataset: str
    utterances: tuple[Utterance, ...]  # sorted by id
    tasks: dict[str, Task]  # the prediction tasks, by name
    protocols: dict[str, Protocol]  # the ways to split the corpus, by name
    problems: tuple[Problem, ...] = ()  # what the reader found wrong
    notes: tuple[str, ...] = ()  # remarks on this copy of the corpus, such as absent actors

    @cached_property
    def digest(self) -> str:
        """sha256 over the annotations and texts of the whole corpus, independent of the fold.

        Paths do not count, so a moved corpus keeps its digest. The content of media counts in the feature keys.
        """
        rows = []
        for utterance in self.utterances:
            row = {**vars(utterance), "audio": utterance.audio is not None, "video": utterance.video is not None}
            if not utterance.audio_is_cut:  # keeps the digests of manifests that are older than this field
                del row["audio_is_cut"]
            rows.append(row)
        tasks = {name: asdict(task) for name, task in self.tasks.items()}
        return digest_of({"dataset": self.dataset, "tasks": tasks, "utterances": rows})

    @cached_property
    def speakers(self) -> tuple[str, ...]:
        """All speakers of the corpus, sorted, so that a speaker has the same number in every split."""
        return tuple(sorted({item.speaker for item in self.utterances if item.speaker is not None}))

    @cached_property
    def dialogues(self) -> dict[str, tuple[Utterance, ...]]:
        """The utterances of each dialogue in the order of their turns."""
        dialogues: dict[str, list[Utterance]] = defaultdict(list)
        for utterance in sorted(self.utterances, key=lambda item: item.turn or 0):
            if utterance.dialogue is not None:
                dialogues[utterance.dialogue].append(utterance)
        return {name: tuple(turns) for name, turns in sorted(dialogues.items())}

    @property
    def remarks(self) -> str:
        """The first note or problem, and how many more of them there are; empty if there is none."""
        lines = [*self.notes, *map(str, self.problems)]
        if not lines:
            return ""
        first = lines[0] if len(lines[0]) <= LONGEST_REMARK else f"{lines[0][:LONGEST_REMARK]} …"
        more = f"{len(lines) - 1} more; " if len(lines) > 1 else ""
        return first if [first] == lines else f"{first} ({more}emorec data check lists all in full)"

    def previous_turns(self, utterance: Utterance, count: int) -> tuple[Utterance, ...]:
        """Up to `count` turns of the same dialogue before `utterance`, oldest first."""
        turns = self.dialogues.get(utterance.dialogue or "", ())
        index = next((index for index, item in enumerate(turns) if item.id == utterance.id), 0)
        return turns[max(0, index - count) : index]


@dataclass(kw_only=True)
class Corpus(ABC):
    """A corpus on disk, as configured. Each subclass reads one layout.

    Args:
        root: folder of the corpus.
        task: the task to train.
        protocol: the way to split the corpus.
        fold: the fold of the protocol; `None` for a protocol without folds.
        limit: keep only this many utterances, spread evenly over splits and classes.
    """

    name: ClassVar[str]
    origin: ClassVar[str] = ""  # how to get the corpus
    parts: ClassVar[Mapping[str, Part]] = {}  # what `data download` offers, by name

    root: str
    task: str
    protocol: str
    fold: Count | None = None
    limit: PositiveCount | None = None
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.root).expanduser()

    @abstractmethod
    def scan(self) -> Manifest:
        """Reads the whole corpus and lists all problems in the manifest.

        Raises:
            UserError: the corpus does not exist.
        """

    @classmethod
    def write_fixture(cls, folder: Path) -> None:
        """Writes a small corpus with real media in the layout of this one, by `write` in `fixtures/<name>.py`.

        Raises:
            UserError: this corpus has no fixture.
        """
        module = f"emorec.datasets.fixtures.{cls.name}"
        if find_spec(module) is None:
            raise UserError(f"expected a dataset with a fixture, got {cls.name}, which has none")
        import_module(module).write(folder)

    def read(self) -> Manifest:
        """Reads the whole corpus.

        Raises:
            UserError: the corpus does not exist or has fatal problems; all of them are listed.
        """
        manifest = self.with_random(self.scan())
        raise_problems(f"dataset={self.name} at {self.folder}", [str(item) for item in manifest.problems if item.fatal])
        return manifest

    def with_random(self, manifest: Manifest) -> Manifest:
        """The manifest with the protocol "random" where it is asked for: folds of utterances, whoever speaks."""
        if self.protocol != RANDOM or RANDOM in manifest.protocols:
            return manifest
        rule = stratified(manifest.utterances, self.task, RANDOM_FOLDS, seed=0)
        return replace(manifest, protocols={**manifest.protocols, RANDOM: rule})

    def chosen_task(self, manifest: Manifest) -> Task:
        """The task to train."""
        return choose(manifest.tasks, self.task, f"dataset.task (dataset={self.name})")

    def split(self, manifest: Manifest, task: Task | None = None) -> dict[str, tuple[Utterance, ...]]:
        """The utterances of train, val and test as configured, those with a target for a task: by default the chosen
        one. `UNLABELLED` takes all of them, whatever their targets are."""
        task = task or self.chosen_task(manifest)
        rule = choose(manifest.protocols, self.protocol, f"dataset.protocol (dataset={self.name})")
        notes = f" ({'; '.join(manifest.notes)})" if manifest.notes else ""
        where = f"dataset={self.name}, dataset.protocol={self.protocol}{notes}"
        name = None if task == UNLABELLED else task.name
        return assign_splits(manifest.utterances, rule, fold=self.fold, task=name, limit=self.limit, where=where)

    def require_folder(self, origin: str = "") -> None:
        """Raises a `UserError` with the expected folder and how to get the corpus, `origin` or the class's, if it does
        not exist."""
        if not self.folder.is_dir():
            raise UserError(
                f"expected the corpus in {self.folder}, found no such folder (dataset={self.name}; "
                f"set dataset.root, or EMOREC_DATA to the folder that holds {self.folder.name}/). "
                f"{origin or self.origin}"
            )

    def files(self) -> list[Path]:
        """All files below the folder of the corpus, linked folders included, sorted; each of them once."""
        return files_below(self.folder)

    def build_manifest(
        self,
        utterances: Iterable[Utterance],
        tasks: Mapping[str, Task],
        protocols: Mapping[str, Protocol],
        problems: Iterable[Problem],
        notes: Iterable[str] = (),
    ) -> Manifest:
        """The manifest of these utterances, sorted by id, with the problems of `check_utterances` added."""
        items = tuple(sorted(utterances, key=lambda item: item.id))
        return Manifest(
            dataset=self.name,
            utterances=items,
            tasks=dict(tasks),
            protocols=dict(protocols),
            problems=(*problems, *check_utterances(items, tasks)),
            notes=tuple(notes),
        )


def check_utterances(utterances: Sequence[Utterance], tasks: Mapping[str, Task]) -> list[Problem]:
    """The problems that any corpus can have: a repeated id, an unknown split or class, no text and no media, and text
    that no file can hold."""
    problems = []
    for identifier, count in Counter(item.id for item in utterances).items():
        if count > 1:
            problems.append(Problem("duplicate", identifier, f"expected one utterance of this id, found {count}"))
    for item in utterances:
        for name in (name for name in TEXTS if text_problem(str(getattr(item, name)))):
            detail = f"expected {name} in UTF-8 without NUL, got {getattr(item, name)!r}"
            problems.append(Problem("encoding", item.id, detail))
        if item.split is not None and item.split not in SPLITS:
            problems.append(Problem("split", item.id, f"expected split in {SPLITS}, got {item.split!r}"))
        if item.audio is None and item.video is None and item.text is None:
            problems.append(Problem("missing", item.id, "has neither text nor audio nor video", fatal=False))
        for name, target in item.targets.items():
            task = tasks.get(name)
            if task is None:
                problems += _vote_problems(item.id, name, target, tasks)
            elif task.kind == "classification" and isinstance(target, int) and not 0 <= target < len(task.labels):
                problems.append(Problem("label", item.id, f"expected {name} in {task.labels}, got {target!r}"))
    return problems


def _vote_problems(where: str, name: str, target: Target, tasks: Mapping[str, Task]) -> list[Problem]:
    """Checks a target that is not a task: it must be the votes on a classification task, one share for each class."""
    task = tasks.get(name.removesuffix(VOTES))
    if task is None or not name.endswith(VOTES) or task.kind != "classification":
        return [Problem("target", where, f"expected targets among {sorted(tasks)}, got {name!r}")]
    shares = target if isinstance(target, tuple) else ()
    if len(shares) == len(task.labels) and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6:
        return []
    return [Problem("votes", where, f"expected {len(task.labels)} shares that sum to 1 as {name}, got {target!r}")]


def count_problems(rows: Iterable[tuple[str, str, int, int]], kind: str = "count") -> list[Problem]:
    """A warning for each row (where, what is counted, expected count, count) whose counts differ."""
    return [
        Problem(kind, where, f"expected {expected} {what}, found {count}", fatal=False)
        for where, what, expected, count in rows
        if count != expected
    ]


def media_notes(utterances: Sequence[Utterance]) -> list[str]:
    """A note for each of audio and video that some utterances lack."""
    counts = {name: sum(getattr(item, name) is not None for item in utterances) for name in ("audio", "video")}
    total = len(utterances)
    return [f"{name}: {count} of {total} utterances have a file" for name, count in counts.items() if count < total]
