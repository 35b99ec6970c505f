"""Writes a composed config as an experiment file: what differs from the defaults of `emorec train`."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

from emorec.config.composition import Composed, Composer
from emorec.runs.identity import OPERATIONAL_KEYS, is_place
from emorec.storage.atomic import write_text

Leaves = dict[tuple[str, ...], Any]
OPERATIONAL = {keys[0] for keys in OPERATIONAL_KEYS}
OF_A_TRIAL = {"test", "on_running", "rerun", "sweep", "tags", "notes"}  # operational, and no concern of the experiment
_NOTHING = object()


@dataclass(frozen=True)
class Experiment:
    """An experiment file.

    Attributes:
        path: where it lies.
        command: trains it.
        differences: keys in which it does not compose to what was wanted; none, if all went well.
    """

    path: Path
    command: str
    differences: list[str]


def write_experiment(
    composer: Composer, wanted: Composed, *, folder: Path, name: str, note: str, keys: Sequence[str]
) -> Experiment:
    """Writes `<folder>/experiment/<name>.yaml`, which composes to a config.

    Args:
        composer: of the command line that the config came from.
        wanted: the config.
        folder: `--config-dir` of the command that trains it.
        name: of the experiment.
        note: the file's second line.
        keys: what the command line or a search set; what follows from it by interpolation is left out.
    """
    trainer = Composer(replace(composer.line, config_name="train", config_dir=None))
    defaults = trainer.compose([]).choices
    groups = {
        group: choice
        for group, choice in wanted.choices.items()
        if group != "experiment" and _top(group) not in OPERATIONAL and defaults.get(group) != choice
    }
    goal = dict(_leaves(wanted.config))
    set_here = {tuple(key.split(".")) for key in keys}
    values = {place: value for place, value in goal.items() if place in set_here}
    told = _places_told(composer)
    found = _composed(trainer, composer.line.config_dir, name, _text(groups, values), told)
    values = {place: goal[place] for place in goal if place in values or found.get(place, _NOTHING) != goal[place]}
    text = _text(groups, values)
    found = _composed(trainer, composer.line.config_dir, name, text, told)
    differing = {place for place in {**goal, **found} if goal.get(place, _NOTHING) != found.get(place, _NOTHING)}
    path = folder / "experiment" / f"{name}.yaml"
    command = _command(composer, folder, name)
    write_text(path, f"# {command}\n# {note}\n{text}")
    return Experiment(path, command, sorted(".".join(place) for place in differing))


def key_of(override: str) -> str:
    """The key that an override sets, chooses or deletes."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def defining(config: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of a config that may change a run's result, but for where the corpus lies."""
    dotted = {".".join(path): value for path, value in _leaves(config)}
    return {key: value for key, value in dotted.items() if not is_place(key)}


def _top(key: str) -> str:
    return key.partition(".")[0].partition("/")[0]


def _leaves(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path of keys, value) of all that may change a result."""
    for key, value in node.items():
        if not path and key in OPERATIONAL:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _text(groups: Mapping[str, str], values: Leaves) -> str:
    nested: dict[str, Any] = {}
    if groups:
        nested["defaults"] = [{f"override /{group}": choice} for group, choice in sorted(groups.items())]
    for path, value in values.items():
        node = nested
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return OmegaConf.to_yaml(OmegaConf.create(nested))


def _places_told(composer: Composer) -> list[str]:
    """The overrides that say where things are, which the experiment's command repeats."""
    return [word for word in composer.line.overrides if _top(key_of(word)) in OPERATIONAL - OF_A_TRIAL]


def _composed(trainer: Composer, config_dir: str | None, name: str, text: str, told: Sequence[str]) -> Leaves:
    """What an experiment of this text composes to, by its command."""
    with TemporaryDirectory() as folder:
        write_text(Path(folder) / "experiment" / f"{name}.yaml", text)
        folders = [folder, *([config_dir] if config_dir else [])]
        return dict(_leaves(trainer.compose([_search_path(folders), f"experiment={name}", *told]).config))


def _search_path(folders: Sequence[str]) -> str:
    return "hydra.searchpath=[{}]".format(",".join(f"'file://{folder}'" for folder in folders))


def _command(composer: Composer, folder: Path, name: str) -> str:
    """The command that trains an experiment, in the same places."""
    line, told = composer.line, _places_told(composer)
    where = ["--config-dir", str(folder)]
    if line.config_dir is not None:  # two folders
        where = [_search_path([str(folder), line.config_dir])]
    return shlex.join(["emorec", "train", *where, f"experiment={name}", *told])
