"""Makes objects of config nodes, of trusted classes only.

A `_target_` in a config is code that runs. Only classes of emorec's parts, a short exact list, and the packages that
the environment variable `EMOREC_TRUST` names are instantiated, each only in the place that it is made for. No config
and no checkpoint can widen that.
"""

import importlib
import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from emorec.annotations import NonNegative, Positive
from emorec.config.validation import check_arguments, join
from emorec.errors import UserError, raise_problems

T = TypeVar("T")
# Parts of emorec that a config is made of: nothing that starts processes or manages files.
PARTS = tuple(
    f"emorec.{name}"
    for name in ("datasets", "media", "encoders", "fusion", "context", "losses", "metrics", "models", "loggers")
)
# Public classes of other packages, each only where its base class is asked for.
LIBRARIES = (
    "torch.optim",
    "torch.optim.lr_scheduler",
    "lightning.pytorch.loggers",
    "torchmetrics.classification",
    "torchmetrics.regression",
)
TRUST_VARIABLE = "EMOREC_TRUST"
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# Of arguments that optimizers of any library share: torch's own annotations say less.
BOUNDS = {"lr": Positive, "weight_decay": NonNegative, "momentum": NonNegative}


@dataclass(frozen=True)
class Component:
    """A config node that names a class: what it takes is checked, and the object is made once, by `make`."""

    target: type
    arguments: Mapping[str, Any]  # of its constructor; nodes inside them are components, which are made with it
    where: str  # the node's key
    node: Mapping[str, Any]  # as it stands in the config

    @classmethod
    def from_node(cls, node: Mapping[str, Any], path: str, problems: list[str]) -> "Component | None":
        """Locates the class of a resolved node and checks the arguments that are given.

        A line is added to `problems` for everything that does not fit; then the result is `None`.
        """
        inner: list[str] = []
        try:
            target = target_of(node, where=path)
        except UserError as error:
            problems.append(str(error))
            return None
        values = {key: value for key, value in node.items() if key != "_target_"}
        given = {key: _with_components(value, join(path, key), inner) for key, value in values.items()}
        arguments = {} if inner else check_arguments(target, given, path, inner, BOUNDS)
        problems += inner
        return None if inner else cls(target, arguments, path, node)

    def make(self, kind: type[T], **derived: Any) -> T:
        """Makes the object, with arguments that are derived, not configured.

        Raises:
            UserError: the class is not derived from `kind`, or the arguments do not fit it.
        """
        if not issubclass(self.target, kind):
            raise UserError(f"{self.where}: expected a class derived from {kind.__name__}, got {self.target.__name__}")
        arguments = {key: _made(value) for key, value in self.arguments.items()}
        try:
            inspect.signature(self.target).bind(**arguments, **derived)
        except TypeError as error:
            names = ", ".join(inspect.signature(self.target).parameters)
            raise UserError(f"{self.where}: {error}; {self.target.__name__} takes {names}") from error
        result: T = self.target(**arguments, **derived)
        return result

    def check_complete(self, *derived: str) -> None:
        """Raises a `UserError` where the constructor needs an argument that is neither given nor derived later."""
        for name, parameter in inspect.signature(self.target).parameters.items():
            is_needed = parameter.default is parameter.empty and parameter.kind not in VARIADIC
            if is_needed and name not in (*derived, *self.arguments):
                raise UserError(f"{join(self.where, name)}: expected a value, got nothing")

    def lacks(self, *names: str) -> list[str]:
        """Those of some arguments that the constructor takes and that are not given."""
        parameters = inspect.signature(self.target).parameters
        return [name for name in names if name in parameters and name not in self.arguments]


def trusted_packages() -> tuple[str, ...]:
    """The packages whose classes a config may name: emorec's parts, and those of the lab."""
    named = re.split(r"[,:\s]+", os.environ.get(TRUST_VARIABLE, ""))
    return (*PARTS, *(name for name in named if name))


def _is_trusted(qualified_name: str) -> bool:
    return any(qualified_name.startswith(f"{name}.") for name in trusted_packages())


def locate(target: str) -> type:
    """The trusted class of a full name.

    Raises:
        UserError: it is not trusted, no class, or cannot be imported.
    """
    refusal = (
        f"expected a class of {', '.join((*trusted_packages(), *LIBRARIES))} "
        f"(a lab adds its packages by the environment variable {TRUST_VARIABLE}), got {target!r}"
    )
    module_name, _, class_name = target.rpartition(".")
    if not _is_trusted(target) and module_name not in LIBRARIES:
        raise UserError(refusal)
    try:
        located = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"expected a class that can be imported, got {target!r}: {error}") from error
    # A trusted module may hold names that it imported from elsewhere: the class itself has to be trusted.
    home = f"{getattr(located, '__module__', '')}.{getattr(located, '__qualname__', '')}"
    if not isinstance(located, type) or not (_is_trusted(home) or home.startswith(f"{module_name}.")):
        raise UserError(refusal)
    return located


def target_of(node: Mapping[str, Any], *, where: str) -> Any:
    """The class that a config node names.

    Raises:
        UserError: it names none, or one that is not trusted.
    """
    if "_target_" not in node:
        raise UserError(f"{where}: expected a _target_, got {sorted(node)}")
    try:
        return locate(str(node["_target_"]))
    except UserError as error:
        raise UserError(f"{where}._target_: {error}") from error


def instantiate(node: Mapping[str, Any], *, where: str, kind: type[T], **derived: Any) -> T:
    """Makes the object that a config node describes; see `Component`.

    Raises:
        UserError: the class is not trusted or none of this kind, or the arguments do not fit it; all problems at once.
    """
    problems: list[str] = []
    component = Component.from_node(node, where, problems)
    raise_problems("the config", problems)
    assert component is not None
    return component.make(kind, **derived)


def _with_components(value: Any, path: str, problems: list[str]) -> Any:
    """Plain data with a component for each node in it."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return Component.from_node(value, path, problems)
        return {str(key): _with_components(item, join(path, str(key)), problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_components(item, f"{path}[{index}]", problems) for index, item in enumerate(value)]
    return value


def _made(value: Any) -> Any:
    """Arguments with the objects of the components in them."""
    if isinstance(value, Component):
        return value.make(object)
    if isinstance(value, Mapping):
        return {key: _made(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_made(item) for item in value)
    return value
