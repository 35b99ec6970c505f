"""Where the YAML files are, and where stores lie by default."""

import os
import secrets
import time
from functools import lru_cache
from pathlib import Path

from omegaconf import OmegaConf

from emorec.config.credentials import environment_value
from emorec.errors import UserError

ROOT_VARIABLE = "EMOREC_ROOT"
PACKAGE = Path(__file__).resolve().parent.parent


def config_folder() -> Path:
    """The folder of YAML files: `emorec/conf` in an installed wheel, or `conf` in a checkout.

    Raises:
        UserError: there is neither.
    """
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"expected emorec's configs in {PACKAGE / 'conf'} or {PACKAGE.parent / 'conf'}, found neither")


def root_folder() -> Path:
    """The folder of `cache/`, `checkpoints/` and `data/`: `EMOREC_ROOT`, the checkout, or the working directory."""
    if root := os.environ.get(ROOT_VARIABLE):
        return Path(root).expanduser().absolute()
    checkout = PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").is_file() and (checkout / "conf").is_dir() else Path.cwd()


@lru_cache(maxsize=1)
def _sweep_name() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _first_fold(protocol: str, *without_folds: str) -> int | None:
    return None if protocol in without_folds else 0


def register_resolvers() -> None:
    """Registers what interpolations of emorec's configs call with OmegaConf.

    `${emorec_root:}`, `${new_sweep_name:}`, `${first_fold:protocol,…}` (null for the protocols that are listed), and
    `${oc.env:…}`, which reads the variables that hold no credential.
    """
    OmegaConf.register_new_resolver("emorec_root", lambda: str(root_folder()), replace=True)
    OmegaConf.register_new_resolver("new_sweep_name", _sweep_name, replace=True)
    OmegaConf.register_new_resolver("first_fold", _first_fold, replace=True)
    OmegaConf.register_new_resolver("oc.env", environment_value, replace=True)
