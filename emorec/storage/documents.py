"""YAML and JSON that others may have written: read from regular files only, and of bounded size and depth."""

import errno
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from emorec.errors import UserError, first_line
from emorec.storage.regular_files import read_regular

MOST_BYTES = 1_000_000  # of a config
MOST_VALUES = 100_000  # of a config, with each alias written out
DEEPEST = 64  # lists and mappings inside each other
MOST_JSON_BYTES = 100_000_000


def read_text(path: Path, most_bytes: int = MOST_BYTES, *, follow: bool = True) -> str:
    """The text of a regular file.

    Raises:
        UserError: it is no regular file, too large, or no UTF-8.
        OSError: it cannot be read.
    """
    try:
        return read_regular(path, most=most_bytes, follow=follow).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"expected UTF-8, got {error} ({path})") from error
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EFBIG):
            raise
        raise UserError(f"{error.strerror} ({path})") from error


def read_yaml(path: Path, *, follow: bool = True) -> dict[str, Any]:
    """The mapping in a YAML file, as plain data; interpolations stay texts.

    Raises:
        UserError: it is no such file.
        OSError: it cannot be read.
    """
    text = read_text(path, follow=follow)
    check_yaml(text, path)
    try:
        content = yaml.load(text, Loader=_loader())
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"expected YAML, got {first_line(error)} ({path})") from error
    if not isinstance(content, dict):
        raise UserError(f"expected a mapping, got {type(content).__name__} ({path})")
    return {str(key): value for key, value in content.items()}


@cache
def _loader() -> Any:
    """A safe loader that reads numbers as Hydra does; its parser is in C where libyaml is there, which is ten times as
    fast."""
    from omegaconf._utils import get_yaml_loader

    constructor: Any = get_yaml_loader()
    if not yaml.__with_libyaml__:
        return constructor

    parser: Any = yaml.cyaml.CParser  # type: ignore[attr-defined]

    class Loader(parser, constructor):  # type: ignore[misc]
        """The parser in C, and the constructor of OmegaConf."""

        def __init__(self, stream: Any) -> None:
            parser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader


def yaml_text(values: Mapping[str, Any]) -> str:
    """Plain data as YAML that `read_yaml` reads back; a text such as `${…}` stays one."""
    from omegaconf._utils import get_omega_conf_dumper

    class Dumper(get_omega_conf_dumper()):  # type: ignore[misc]
        """Writes equal lists twice, not as aliases."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return str(yaml.dump(dict(values), Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))


def check_yaml(text: str, path: Path) -> None:
    """Refuses YAML that is broken, too deep, or too long once its aliases are written out.

    Raises:
        UserError: says which, and where.
    """
    try:
        _check_events(yaml.parse(text, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader), path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise UserError(f"expected YAML, got {error.problem} ({path}, line {line})") from error
    except yaml.YAMLError as error:
        raise UserError(f"expected YAML, got {first_line(error)} ({path})") from error


def _check_events(events: Iterable[yaml.Event], path: Path) -> None:
    sizes: dict[str | None, int] = {}  # numbers of values that aliases stand for
    open_nodes: list[tuple[str | None, int]] = []  # (anchor, number of values before it)
    count = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            sizes[event.anchor] = MOST_VALUES  # as long as it is open: an alias in itself never ends
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            sizes[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            count += sizes.get(event.anchor, 1)
        count += isinstance(event, yaml.NodeEvent)
        if len(open_nodes) > DEEPEST:
            raise UserError(f"expected at most {DEEPEST} levels, got more ({path})")
        if count > MOST_VALUES:
            raise UserError(f"expected at most {MOST_VALUES} values with aliases written out, got more ({path})")


def check_depth(value: Any, where: str) -> None:
    """Refuses plain data with too many lists and mappings inside each other.

    Raises:
        UserError: says where.
    """
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        level = [item for items in inner for item in items]
    if level:
        raise UserError(f"expected at most {DEEPEST} levels, got more ({where})")


def read_object(path: Path, what: str) -> dict[str, Any] | None:
    """The JSON object in a file, which is no link, or `None` where it is missing; `what` it is stands in errors.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(read_regular(path, most=MOST_JSON_BYTES, follow=False))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"expected {what} in {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected {what} in {path}, got {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"expected {what} in {path}, got {type(content).__name__}")
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it is no such file, or nested too deep.
        OSError: it cannot be read.
    """
    try:
        return json.loads(read_text(path, MOST_JSON_BYTES))
    except RecursionError as error:
        raise UserError(f"expected JSON, got too many levels ({path})") from error
    except ValueError as error:
        raise UserError(f"expected JSON, got {error} ({path})") from error
