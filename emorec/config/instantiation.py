"""Where the YAML files are, and which classes a config may name.

A `_target_` in a config is code that runs. Only classes of emorec's parts, a short exact list, and the packages that
the environment variable `EMOREC_TRUST` names are instantiated, and only in the place that they are made for; no config
and no checkpoint can widen that.
"""

import importlib
import inspect
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from emorec.errors import UserError

T = TypeVar("T")
TRUSTED_CLASSES = frozenset(
    {
        "torch.optim.AdamW",
        "torch.optim.Adam",
        "torch.optim.SGD",
        "lightning.pytorch.loggers.CSVLogger",
    }
)
# Of emorec itself, what a config is made of: nothing that starts processes or manages files.
PARTS = tuple(f"emorec.{name}" for name in ("datasets", "media", "encoders", "fusion", "losses", "models", "loggers"))
TRUST_VARIABLE = "EMOREC_TRUST"
ROOT_VARIABLE = "EMOREC_ROOT"


def config_folder() -> Path:
    """The folder of YAML files: `emorec/conf` of an installed wheel, or `conf` of the checkout.

    Raises:
        UserError: neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"expected emorec's configs in {package / 'conf'} or {package.parent / 'conf'}, found neither")


def root_folder() -> Path:
    """Where `cache/`, `checkpoints/` and `data/` lie: `EMOREC_ROOT`, else the checkout, else the working directory."""
    if root := os.environ.get(ROOT_VARIABLE):
        return Path(root).expanduser().absolute()
    checkout = Path(__file__).resolve().parent.parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() and (checkout / "conf").is_dir() else Path.cwd()


@lru_cache(maxsize=1)
def _sweep_name() -> str:
    import secrets
    import time

    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def register_resolvers() -> None:
    """Registers `${emorec_root:}` and `${new_sweep_name:}` with OmegaConf."""
    OmegaConf.register_new_resolver("emorec_root", lambda: str(root_folder()), replace=True)
    OmegaConf.register_new_resolver("new_sweep_name", _sweep_name, replace=True)


def _trusted_packages() -> tuple[str, ...]:
    named = re.split(r"[,:\s]+", os.environ.get(TRUST_VARIABLE, ""))
    return (*PARTS, *(name for name in named if name))


def _is_trusted(qualified_name: str) -> bool:
    packages = _trusted_packages()
    return qualified_name in TRUSTED_CLASSES or any(qualified_name.startswith(f"{name}.") for name in packages)


def _locate(target: str) -> type:
    refusal = (
        f"expected _target_ to be a class of {', '.join(_trusted_packages())} "
        f"(a lab adds its packages by the environment variable {TRUST_VARIABLE}), got {target!r}"
    )
    if not _is_trusted(target):
        raise UserError(refusal)
    module_name, _, class_name = target.rpartition(".")
    try:
        located = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"_target_ {target!r} cannot be imported: {error}") from error
    # A trusted module may hold names that it imported from elsewhere: the class itself has to be trusted.
    home = f"{getattr(located, '__module__', '')}.{getattr(located, '__qualname__', '')}"
    if not isinstance(located, type) or not (_is_trusted(home) or target in TRUSTED_CLASSES):
        raise UserError(refusal)
    return located


def plain(node: Any) -> Any:
    """A resolved config node as dicts, lists and primitives."""
    return OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node


def target_of(node: Mapping[str, Any], *, where: str) -> Any:
    """The class that a config node names.

    Raises:
        UserError: it names none, or one that is not trusted.
    """
    if "_target_" not in node:
        raise UserError(f"expected {where} to have a _target_, got {sorted(node)}")
    return _locate(str(node["_target_"]))


def instantiate(node: Mapping[str, Any], *, where: str, kind: type[T] = object, **derived: Any) -> T:  # type: ignore[assignment]
    """Builds the object that a config node describes; nodes inside it are built first.

    Args:
        node: holds `_target_`, a trusted class, and its arguments by name.
        where: the node's place in the config, for errors.
        kind: what the class has to be derived from.
        **derived: arguments that are computed, not configured; those the class does not take are an error.

    Raises:
        UserError: the class is not trusted, or the arguments do not fit it.
    """
    settings = dict(plain(node))
    target = target_of(settings, where=where)
    if not issubclass(target, kind):
        raise UserError(f"expected {where} to be of a class derived from {kind.__name__}, got {settings['_target_']}")
    del settings["_target_"]
    arguments = {key: _build_nested(value, f"{where}.{key}") for key, value in settings.items()}
    try:
        inspect.signature(target).bind(**arguments, **derived)
    except TypeError as error:
        takes = ", ".join(inspect.signature(target).parameters)
        raise UserError(f"{where}: {error}; {target.__name__} takes {takes}") from error
    made: T = target(**arguments, **derived)
    return made


def _build_nested(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return instantiate(value, where=where)
        return {key: _build_nested(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_build_nested(item, f"{where}[{index}]") for index, item in enumerate(value)]
    return value
