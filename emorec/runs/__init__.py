"""Runs: identity, checkpoint store, provenance, results.

The module can be called: `emorec.runs()` is the public function of that name, which the package would otherwise hide.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, **options: Any) -> Any:
        return importlib.import_module("emorec.inference.loaded_run").runs(**options)


sys.modules[__name__].__class__ = _CallableModule
