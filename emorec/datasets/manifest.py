"""A corpus, read and checked: its utterances, its tasks and what is wrong with it."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from emorec.datasets.splits import Protocol, assign_splits
from emorec.datasets.utterance import SPLITS, VOTES, Target, Task, Utterance
from emorec.errors import UserError, choose, raise_problems
from emorec.storage.digests import digest_of


@dataclass(frozen=True)
class Problem:
    """Something wrong with a corpus.

    Attributes:
        kind: a word to count by, such as "missing", "duplicate" or "label".
        where: the utterance's id, or the file and line.
        detail: what was expected and what was found.
        fatal: whether nothing can be trained before it is mended.
    """

    kind: str
    where: str
    detail: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole corpus.

    Attributes:
        dataset: the corpus's name.
        utterances: all of them, sorted by id.
        tasks: what can be predicted, by name.
        protocols: the ways to split it, by name.
        problems: what the reader found wrong.
        notes: what a user should know about this copy, such as absent actors.
    """

    dataset: str
    utterances: tuple[Utterance, ...]
    tasks: dict[str, Task]
    protocols: dict[str, Protocol]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """sha256 over the whole corpus, whatever the fold: annotations and texts. Media count by their content, in
        the keys of the features, so paths are left out and a moved corpus keeps its digest."""
        rows = []
        for utterance in self.utterances:
            row: dict[str, Any] = dict(vars(utterance))
            row["audio"], row["video"] = utterance.audio is not None, utterance.video is not None
            if not utterance.audio_is_cut:  # only where it holds: manifests written before there was such a field stay
                del row["audio_is_cut"]
            rows.append(row)
        tasks = {name: asdict(task) for name, task in self.tasks.items()}
        return digest_of({"dataset": self.dataset, "tasks": tasks, "utterances": rows})

    @cached_property
    def speakers(self) -> tuple[str, ...]:
        """All speakers of the corpus, sorted: a speaker's number is the same in every split."""
        return tuple(sorted({item.speaker for item in self.utterances if item.speaker is not None}))

    @cached_property
    def dialogues(self) -> dict[str, tuple[Utterance, ...]]:
        """The utterances of each dialogue in the order of their turns."""
        found: dict[str, list[Utterance]] = defaultdict(list)
        for utterance in self.utterances:
            if utterance.dialogue is not None:
                found[utterance.dialogue].append(utterance)
        return {name: tuple(sorted(turns, key=lambda item: item.turn or 0)) for name, turns in sorted(found.items())}

    @cached_property
    def _places(self) -> dict[str, tuple[str, int]]:
        return {item.id: (name, place) for name, turns in self.dialogues.items() for place, item in enumerate(turns)}

    def previous_turns(self, utterance: Utterance, count: int) -> tuple[Utterance, ...]:
        """Up to `count` turns of the same dialogue before `utterance`, oldest first."""
        if count == 0 or utterance.id not in self._places:
            return ()
        name, place = self._places[utterance.id]
        return self.dialogues[name][max(0, place - count) : place]


@dataclass(kw_only=True)
class Corpus(ABC):
    """A corpus on disk, as configured. A subclass reads one layout.

    Args:
        root: the corpus's folder.
        task: which task to train.
        protocol: which way to split it.
        fold: which fold of the protocol; `None` where it has none.
        limit: keep only this many utterances, spread evenly over splits and classes.
    """

    name: ClassVar[str]
    archives: ClassVar[Mapping[str, str]] = {}  # {part: the archive's name in the record that `data download` reads}

    root: str
    task: str
    protocol: str
    fold: int | None = None
    limit: int | None = None
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.root).expanduser()

    @abstractmethod
    def scan(self) -> Manifest:
        """Reads the whole corpus; everything wrong with it is among the manifest's problems.

        Raises:
            UserError: there is no corpus at all.
        """

    @classmethod
    def write_fixture(cls, folder: Path) -> None:
        """Writes a small corpus with real media in the layout of this one.

        Raises:
            UserError: this corpus has none.
        """
        raise UserError(f"expected a dataset with a fixture, got {cls.name}, which has none")

    def read(self) -> Manifest:
        """Reads the whole corpus.

        Raises:
            UserError: there is no corpus, or something in it is fatal; all problems at once.
        """
        manifest = self.scan()
        raise_problems(f"dataset={self.name} at {self.folder}", [str(item) for item in manifest.problems if item.fatal])
        return manifest

    def chosen_task(self, manifest: Manifest) -> Task:
        """The task to train."""
        return choose(manifest.tasks, self.task, f"dataset.task (dataset={self.name})")

    def split(self, manifest: Manifest) -> dict[str, tuple[Utterance, ...]]:
        """The utterances of train, val and test as configured."""
        self.chosen_task(manifest)
        rule = choose(manifest.protocols, self.protocol, f"dataset.protocol (dataset={self.name})")
        where = f"dataset={self.name}, dataset.protocol={self.protocol}"
        where = f"{where} ({'; '.join(manifest.notes)})" if manifest.notes else where
        return assign_splits(manifest.utterances, rule, fold=self.fold, task=self.task, limit=self.limit, where=where)

    def require_folder(self, hint: str) -> None:
        """Raises a `UserError` that says where the corpus was looked for and where to get it."""
        if not self.folder.is_dir():
            raise UserError(
                f"expected the corpus in {self.folder}, found no such folder (dataset={self.name}; "
                f"set dataset.root, or EMOREC_DATA to the folder that holds {self.folder.name}/). {hint}"
            )


def check_utterances(utterances: list[Utterance], tasks: dict[str, Task]) -> list[Problem]:
    """What no utterance of any corpus may have: a repeated id, an unknown split or class, nothing to look at."""
    problems = []
    for identifier, count in Counter(item.id for item in utterances).items():
        if count > 1:
            problems.append(Problem("duplicate", identifier, f"expected one utterance of this id, found {count}"))
    for item in utterances:
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


def _vote_problems(where: str, name: str, target: Target, tasks: dict[str, Task]) -> list[Problem]:
    """A target that is no task's is the raters' votes on one of classification: a share for each class."""
    task = tasks.get(name.removesuffix(VOTES))
    if task is None or not name.endswith(VOTES) or task.kind != "classification":
        return [Problem("target", where, f"expected targets among {sorted(tasks)}, got {name!r}")]
    shares = target if isinstance(target, tuple) else ()
    if len(shares) == len(task.labels) and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6:
        return []
    return [Problem("votes", where, f"expected {len(task.labels)} shares that sum to 1 as {name}, got {target!r}")]


def media_notes(utterances: Sequence[Utterance]) -> tuple[str, ...]:
    """One note for each of sound and picture that some utterances lack."""
    counts = {name: sum(getattr(item, name) is not None for item in utterances) for name in ("audio", "video")}
    return tuple(
        f"{name}: {count} of {len(utterances)} utterances have a file"
        for name, count in counts.items()
        if count < len(utterances)
    )
