"""Pretrained checkpoints: which one a name stands for, and loading it whole."""

import json
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from emorec.errors import UserError
from emorec.storage.digests import FileDigests

# What decides a local checkpoint's output: weights, configs, tokenizers. Only safetensors are ever loaded.
CHECKPOINT_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
LOCAL = "local"

_digests = FileDigests()


def use_digests(digests: FileDigests) -> None:
    """Local checkpoints are hashed through `digests` from now on: those of a process share one memory."""
    global _digests
    _digests = digests


def is_local(model: str) -> bool:
    """True where `model` is a folder of this machine and not a name on the hub."""
    return Path(model).expanduser().is_dir()


def resolve_revision(model: str, revision: str) -> tuple[str, str]:
    """What a model's name stands for: ("local", digest of the folder) or (name on the hub, commit).

    The hub's local cache is asked first, so that nothing needs a network once a model is there.

    Raises:
        UserError: neither a folder, nor in the local cache, nor to be found on the hub.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not list(folder.glob("*.safetensors")):
            raise UserError(f"expected safetensors weights in {folder}, found none")
        return LOCAL, _digests.digest_folder(folder, CHECKPOINT_SUFFIXES)
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
        if isinstance(cached, str):
            return model, Path(cached).parent.name  # …/snapshots/<commit>/config.json
        commit = HfApi().model_info(model, revision=revision, timeout=20).sha
    except HFValidationError as error:
        raise UserError(f"expected a hub model's name or a local folder, got {model!r}, which is neither") from error
    except _network_errors() as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the model {model!r} (revision {revision!r}) is not in the local hub cache, and the hub does not give it: "
            f"{reason}\nDownload it where there is a network (`hf download {model}`), or name a local folder: "
            "encoder.<modality>.model=/path/to/folder"
        ) from error
    assert commit is not None
    return model, commit


def _network_errors() -> tuple[type[Exception], ...]:
    """What can go wrong on the way to the hub, among it the errors of the HTTP client that its library uses."""
    from huggingface_hub.errors import HfHubHTTPError

    found: list[type[Exception]] = [OSError, HfHubHTTPError]
    for name in ("httpx2", "httpx", "requests"):
        with suppress(ImportError):
            client = import_module(name)
            found.append(getattr(client, "HTTPError", None) or client.RequestException)
    return tuple(found)


def _where(model: str, revision: str) -> tuple[str, dict[str, str]]:
    """What to hand to `from_pretrained`: a folder where all is there already, so that no network is asked."""
    if is_local(model):
        return str(Path(model).expanduser()), {}
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", revision=revision)
    if isinstance(config, str):
        snapshot = Path(config).parent
        index = snapshot / "model.safetensors.index.json"
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        if all((snapshot / shard).exists() for shard in shards):
            return str(snapshot), {}
    return model, {"revision": revision}


def load_pretrained(factory: Any, model: str, revision: str) -> Any:
    """`factory.from_pretrained` of a resolved model; for weights, all of them must be in the checkpoint.

    Raises:
        UserError: the checkpoint cannot be loaded, or lacks weights (but a pooler's, which is not used).
    """
    from safetensors import SafetensorError

    name, where = _where(model, revision)
    faults: tuple[type[Exception], ...] = (*_network_errors(), ValueError, RuntimeError, SafetensorError)
    try:
        if not hasattr(factory, "_model_mapping"):
            return factory.from_pretrained(name, **where)
        loaded, report = factory.from_pretrained(name, use_safetensors=True, output_loading_info=True, **where)
    except faults as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the model {model!r} cannot be loaded: {reason}") from error
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise UserError(
            f"expected all weights in the checkpoint of {model!r}, missing are {missing[:5]} ({len(missing)})"
        )
    return loaded
