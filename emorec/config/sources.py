"""Where Hydra reads configs from: YAML files of bounded size, and packages that are trusted.

Hydra imports the package that a search path such as `pkg://name` names, and unfolds the aliases of a file without end.
"""

import os
from pathlib import Path

from hydra._internal.core_plugins import (
    file_config_source,
    importlib_resources_config_source,
    structured_config_source,
)
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from emorec.config.instantiation import trusted_packages
from emorec.config.locations import config_folder
from emorec.errors import UserError
from emorec.storage.documents import check_yaml, read_text


class FileConfigSource(file_config_source.FileConfigSource):
    """A folder of YAML files."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path))))
        if path.exists() and not path.is_relative_to(config_folder()):
            check_yaml(read_text(path), path)
        return super().load_config(config_path)


class ImportlibResourcesConfigSource(importlib_resources_config_source.ImportlibResourcesConfigSource):
    """YAML files in a package."""

    def __init__(self, provider: str, path: str) -> None:
        _check_package(path)
        super().__init__(provider=provider, path=path)


class StructuredConfigSource(structured_config_source.StructuredConfigSource):
    """Configs that a package registers."""

    def __init__(self, provider: str, path: str) -> None:
        _check_package(path)
        super().__init__(provider=provider, path=path)


def _check_package(path: str) -> None:
    """Raises a `UserError` for a package that is neither Hydra's nor emorec's nor trusted by the lab."""
    name = path.partition("://")[2].replace("/", ".")
    known = ("hydra", "emorec", *trusted_packages())
    if name and not any(f"{name}.".startswith(f"{package}.") for package in known):
        raise UserError(f"hydra.searchpath: expected file://… or a trusted package, got {path!r}")


def register_sources() -> None:
    """Has Hydra read configs through these classes, which have the names that it knows its own by."""
    Plugins.instance()  # registers Hydra's own, which these replace
    for source in (FileConfigSource, ImportlibResourcesConfigSource, StructuredConfigSource):
        SourcesRegistry.instance().types[source.scheme()] = source
