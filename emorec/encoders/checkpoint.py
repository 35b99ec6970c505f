"""Pretrained checkpoints: which one a name stands for, and loading it whole."""

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from emorec.errors import UserError
from emorec.storage.digests import FileDigests, digest_of

# What decides a local checkpoint's output: weights, configs, tokenizers. Only safetensors are ever loaded.
CHECKPOINT_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
LOCAL = "local"

# What a checkpoint may lack, for features never need it: a pooler, and the vector that masks frames in pretraining.
UNUSED = ("pooler", "masked_spec_embed")

# What a class of transformers reads that is not the network itself: weights in the cache may have come without it.
PARTS = {"AutoFeatureExtractor": "preprocessor_config.json"}

_digests = FileDigests()


def use_digests(digests: FileDigests) -> None:
    """Local checkpoints are hashed through `digests` from now on: those of a process share one memory."""
    global _digests
    _digests = digests


def digest_files(files: Mapping[str, Path]) -> str:
    """sha256 over names and contents of files; each is hashed once while it stays the same."""
    return digest_of({name: _digests.digest(path) for name, path in files.items()})


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


def _where(model: str, revision: str, part: str = "config.json") -> tuple[str, dict[str, str]]:
    """What to hand to `from_pretrained`: a folder where all is there already, so that no network is asked.

    Args:
        model: name on the hub, or a local folder.
        revision: commit on the hub.
        part: the file that is needed beside the weights.
    """
    if is_local(model):
        return str(Path(model).expanduser()), {}
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, part, revision=revision)
    if isinstance(found, str):
        snapshot = Path(found).parent
        index = snapshot / "model.safetensors.index.json"
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        if all((snapshot / shard).exists() for shard in shards):
            return str(snapshot), {}
    return model, {"revision": revision}


def read_settings(model: str, revision: str, name: str) -> dict[str, Any]:
    """One of the JSON files of a resolved model, such as its `config.json`.

    Raises:
        UserError: the file is missing or is no JSON object.
    """
    faults: tuple[type[Exception], ...] = (*_network_errors(), ValueError)
    try:
        if is_local(model):
            path = Path(model).expanduser() / name
        else:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(model, name, revision=revision))
        found = json.loads(path.read_text())
    except faults as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"expected {name} in the checkpoint of {model!r}, it cannot be read: {reason}") from error
    if not isinstance(found, dict):
        raise UserError(f"expected a JSON object in {name} of the checkpoint of {model!r}, got {type(found).__name__}")
    return found


def _how_to_convert(model: str, revision: str, reason: str) -> str:
    """What to do about a hub model whose weights are there, but as a pickle alone; else nothing."""
    if is_local(model):
        return ""
    from huggingface_hub import try_to_load_from_cache

    pickled = isinstance(try_to_load_from_cache(model, "pytorch_model.bin", revision=revision), str)
    if not pickled and "with `safetensors`" not in reason:
        return ""
    convert = "from transformers import AutoModel as M; M.from_pretrained('FOLDER').save_pretrained('FOLDER')"
    return (
        "\nOnly safetensors are loaded, for a pickle can run code. If you trust the model, convert it once:\n"
        f"  hf download {model} --revision {revision} --local-dir FOLDER\n"
        f'  python -c "{convert}"\n'
        "and name the folder: encoder.<modality>.model=FOLDER"
    )


def load_pretrained(factory: Any, model: str, revision: str) -> Any:
    """`factory.from_pretrained` of a resolved model; for weights, all of them must be in the checkpoint.

    Raises:
        UserError: the checkpoint cannot be loaded, or lacks weights that features need.
    """
    from safetensors import SafetensorError

    name, where = _where(model, revision, PARTS.get(getattr(factory, "__name__", ""), "config.json"))
    faults: tuple[type[Exception], ...] = (*_network_errors(), ValueError, RuntimeError, SafetensorError)
    try:
        if not (hasattr(factory, "_model_mapping") or hasattr(factory, "base_model_prefix")):  # not a class of weights
            return factory.from_pretrained(name, **where)
        loaded, report = factory.from_pretrained(name, use_safetensors=True, output_loading_info=True, **where)
    except faults as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = _how_to_convert(model, revision, reason)
        raise UserError(f"the model {model!r} cannot be loaded: {reason}{hint}") from error
    missing = sorted(key for key in report["missing_keys"] if not any(word in key for word in UNUSED))
    if missing:
        raise UserError(
            f"expected all weights in the checkpoint of {model!r}, missing are {missing[:5]} ({len(missing)})"
        )
    return loaded
