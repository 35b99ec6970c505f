"""Data for models: the same small corpus as the data modules' tests have."""

from tests.datamodules.conftest import make_example

__all__ = ["make_example"]
