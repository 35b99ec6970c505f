"""The Lightning module and its parts."""

import logging

import lightning.pytorch  # noqa: F401  (sets up its loggers, which are then told to be quiet)

for _name in ("lightning", "lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.ERROR)
