"""Writes a composed config as an experiment file: what differs from the defaults of `emorec train`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

from emorec.config.command_line import JOIN, SEVERAL
from emorec.config.composition import Composed, Composer
from emorec.config.keys import OPERATIONAL, OPERATIONAL_KEYS, is_location, leaves, nested
from emorec.config.schema import TrainConfig
from emorec.storage.atomic import write_text
from emorec.tuning.search_space import key_of, top_key

Leaves = dict[tuple[str, ...], Any]
OF_A_TRIAL = {"test", "on_running", "rerun", "sweep", "tags", "notes"}  # operational, and not part of the experiment
_NOTHING = object()


@dataclass(frozen=True)
class Experiment:
    """An experiment file."""

    path: Path
    command: str  # trains it
    differences: list[str]  # keys in which it does not compose to the wanted config; none, if all went well


def write_experiment(
    composer: Composer[Any], wanted: Composed[TrainConfig], *, folder: Path, name: str, note: str, keys: Sequence[str]
) -> Experiment:
    """Writes `<folder>/experiment/<name>.yaml`, which composes to a config.

    Args:
        composer: of the command line that the config came from.
        wanted: the config.
        folder: a `--config-dir` of the command that trains it.
        name: of the experiment.
        note: the file's second line.
        keys: what the command line or a search set; what follows from it by interpolation is left out.
    """
    line = composer.line
    trainer = Composer(replace(line, config_name="train", config_dir=None), TrainConfig)
    config_dirs = [] if line.config_dir is None else [line.config_dir]
    locations = OPERATIONAL - OF_A_TRIAL  # keys that say where things are
    overrides = [f"experiment={name}", *(word for word in line.overrides if top_key(key_of(word)) in locations)]

    def compose(text: str) -> Leaves:
        """What an experiment of this text composes to, by its command."""
        with TemporaryDirectory() as temporary:
            write_text(Path(temporary) / "experiment" / f"{name}.yaml", text)
            return _defining_leaves(trainer.compose([_search_path(temporary, *config_dirs), *overrides]).values)

    defaults = trainer.compose([]).choices
    groups = {
        group: choice
        for group, choice in wanted.choices.items()
        if group != "experiment" and top_key(group) not in OPERATIONAL and defaults.get(group) != choice
    }
    goal = _defining_leaves(wanted.values)
    set_here = {tuple(key.split(".")) for key in keys}
    composed = compose(_text(groups, {path: value for path, value in goal.items() if path in set_here}))
    text = _text(groups, {path: goal[path] for path in goal if path in set_here or _differ(goal, composed, path)})
    composed = compose(text)
    differing = sorted(".".join(path) for path in {**goal, **composed} if _differ(goal, composed, path))
    flags = [_search_path(str(folder), *config_dirs)] if config_dirs else ["--config-dir", str(folder)]
    command = shlex.join(["emorec", "train", *flags, *overrides])
    path = folder / "experiment" / f"{name}.yaml"
    write_text(path, f"# {command}\n# {note}\n{text}")
    return Experiment(path, command, differing)


def defining(values: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of a config that may change a run's result, except where the corpus lies."""
    dotted = {".".join(path): value for path, value in _defining_leaves(values).items()}
    return {key: value for key, value in dotted.items() if not is_location(key)}


def _defining_leaves(values: Mapping[str, Any]) -> Leaves:
    """{path of keys: value} of all that may change a result."""
    return {
        path: value
        for path, value in leaves(values)
        if path[0] not in OPERATIONAL and path not in OPERATIONAL_KEYS and value != {}
    }


def _differ(one: Leaves, other: Leaves, path: tuple[str, ...]) -> bool:
    return bool(one.get(path, _NOTHING) != other.get(path, _NOTHING))


def _text(groups: Mapping[str, str], values: Leaves) -> str:
    several = groups.get("loss", "").split(JOIN) if JOIN in groups.get("loss", "") else []
    chosen = {**groups, **({"loss": SEVERAL} if several else {})}
    choices = [{f"/loss@loss.{name}": name} for name in several]  # Hydra wants overrides last
    choices += [{f"override /{group}": choice} for group, choice in sorted(chosen.items())]
    defaults = {"defaults": choices}
    return OmegaConf.to_yaml(OmegaConf.create({**(defaults if groups else {}), **nested(values)}))


def _search_path(*folders: str) -> str:
    return "hydra.searchpath=[{}]".format(",".join(f"'file://{folder}'" for folder in folders))
