"""No credential comes in by a command line or a config: what comes in so is written to disk, and shown to others.

Keys belong in the environment (`WANDB_API_KEY`, `HF_TOKEN`) or in `~/.netrc`. A refusal names the place, never the
value. Imports nothing heavy: every command line is looked at before anything else happens.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from emorec.config.keys import leaves
from emorec.config.texts import word_problems
from emorec.errors import UserError

# The last words of a name that is given to credentials. A `pad_token` or `max_tokens` is none.
NAMES = re.compile(
    r"(^|.*_)(api_?keys?|passwords?|passwd|passphrase|secrets?|secret_(access_)?key|access_key(_id)?|private_key"
    r"|(wandb|hf|hub|auth)_key"
    r"|credentials?)"
    r"|((.*_)?(access|api|auth|bearer|github|gitlab|hf|hub|hugging_?face|id|refresh|secret|session|wandb)_)?token"
)
# Names of environment variables whose values are credentials: here a `TOKEN` of whatever service is one.
VARIABLES = re.compile(
    r".*(key|token|secret|pass|passphrase|pwd|credential|bearer|_auth|oauth|_pat|_dsn|webhook|cookie|jwt|connection_string"
    r"|database_url)(_?id|s|_?base64)?\d*|.*(secret|password|token|credential).*",
    re.IGNORECASE,
)
# The environment variables that a config may refer to: no value of another one gets into a config.
OWN_VARIABLES = "EMOREC_"
HARMLESS = frozenset(
    {"HOME", "USER", "LOGNAME", "HOSTNAME", "PWD", "OLDPWD", "TMPDIR", "SCRATCH", "WORK", "LANG", "TZ"}
    | {"XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "CONDA_PREFIX", "VIRTUAL_ENV"}
    | {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RANK", "LOCAL_RANK", "WORLD_SIZE"}
    | {"SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CPUS_PER_TASK"}
    | {"SLURM_NTASKS", "SLURM_NNODES", "SLURM_JOB_PARTITION", "SLURM_JOB_ACCOUNT", "SLURM_TMPDIR"}
    | {"WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_NAME", "WANDB_GROUP", "WANDB_TAGS", "WANDB_NOTES"}
    | {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI"}
)
SHORTEST = 12  # characters of such a value, below which it might stand in other text by chance

VALUES = {
    # 40 hex digits are a commit as well: behind an @, and as a folder of the hub's cache or of a repository's page
    "a key of W&B": r"(?<![\w@])(?<!/snapshots/)(?<!/commit/)(?<!/tree/)[0-9a-f]{40}(?!\w)|\bwandb_v\d+_\w{16,}",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{24,}|\bapi_org_[A-Za-z0-9]{24,}",
    "a key of AWS": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{22,}",
    "a token of GitLab": r"\bglpat-[\w-]{20,}",
    "a token of Slack": r"\bxox[abposr]-[\w-]{10,}",
    "a key of Google": r"\bAIza[\w-]{35}",
    "a secret key": r"\bsk-[A-Za-z0-9][\w-]{20,}",
    "a JSON web token": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "an address with a password": r"://[^\s/:@]*:[^\s/@]+@",
}
PATTERNS = {what: re.compile(pattern) for what, pattern in VALUES.items()}
COMMIT = re.compile(r"\b[0-9a-f]{40}\b")
COMMIT_NAME = re.compile(r"(.*_)?(revision|commit|sha1?)")  # the last words of a key whose values are commits
INLINE = re.compile(r"""[{,]\s*['"]?([\w-]+)['"]?\s*:\s*['"]?(?=[^\s,}])""")  # a key of a mapping in a value


def check_words(words: Sequence[str]) -> None:
    """Refuses a command line of flags, overrides and other words that holds a credential.

    Raises:
        UserError: names each override, or the place of a word that is none.
    """
    problems = word_problems(words, _kind_of_setting)
    _refuse("the command line", [f"{where} looks like {what}" for where, what in problems])


def check_config(config: Mapping[str, Any]) -> None:
    """Refuses a composed config that holds a credential, from whatever YAML file or environment variable it came.

    Raises:
        UserError: names each key.
    """
    problems = []
    for path, value in leaves(config, into_lists=True):
        text = "" if value is None or isinstance(value, bool | Mapping) else str(value)  # a mapping here is empty
        key = ".".join(path)
        what = _kind_of_setting(key, text) if text else None
        if what is not None:
            problems.append(f"{key} looks like {what}")
    _refuse("the config", problems)


def environment_value(name: str, *default: Any) -> Any:
    """`${oc.env:name}` or `${oc.env:name,default}` of a config.

    Raises:
        UserError: the variable may hold a credential, or it is not set and has no default.
    """
    if name not in HARMLESS and (not name.startswith(OWN_VARIABLES) or VARIABLES.fullmatch(name)):
        raise UserError(
            f"expected an environment variable that is known to hold no credential, got {name}; "
            f"one of your own begins with {OWN_VARIABLES}"
        )
    if name in os.environ:
        return os.environ[name]
    if not default:
        raise UserError(f"expected the environment variable {name} to be set, or ${{oc.env:{name},default}}")
    return None if default[0] is None else str(default[0])


def _refuse(where: str, problems: Sequence[str]) -> None:
    if problems:
        raise UserError(
            f"expected no credential in {where}, for it would be written to disk: {'; '.join(problems)}. "
            "Use the environment (such as WANDB_API_KEY or HF_TOKEN) or ~/.netrc; nothing was written"
        )


def _kind_of_setting(key: str, value: str) -> str | None:
    """What credential a setting looks like; `None` for an ordinary one."""
    path = [part.lower().replace("-", "_") for part in re.split(r"[./@]", key)]
    if any(NAMES.fullmatch(part) for part in path):
        return "a credential by its name"
    inside = [name.lower().replace("-", "_") for name in INLINE.findall(value)]
    if any(NAMES.fullmatch(name) for name in inside):
        return "a credential by a name in its value"
    if any(COMMIT_NAME.fullmatch(name) for name in (path[-1], *inside)):
        value = COMMIT.sub("", value)
    return _kind(value)


def _kind(text: str) -> str | None:
    """What credential a text holds, by its form or as the value of an environment variable."""
    for what, pattern in PATTERNS.items():
        if pattern.search(text):
            return what
    for name, value in os.environ.items():
        if value in text and len(value) >= SHORTEST and name not in HARMLESS and VARIABLES.fullmatch(name):
            return f"the value of {name}"
    return None
