"""Pretrained checkpoints: which one a name stands for, and how it is loaded."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from emorec.errors import UserError, first_line
from emorec.storage.digests import FileDigests
from emorec.storage.documents import read_json

# The files of a local checkpoint that decide its output: weights, configs, tokenizers. Only safetensors are loaded.
CHECKPOINT_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
LOCAL = "local"

# Weights that a checkpoint may lack, as features do not use them: poolers, and wav2vec 2.0's vector of masked frames.
UNUSED = ("pooler", "masked_spec_embed")

# Files that classes of transformers read and that may be missing in the hub's cache although the weights are there.
PARTS = {"AutoFeatureExtractor": "preprocessor_config.json"}

# Files of a checkpoint in which transformers finds classes, kernels and adapters to load.
SETTINGS = (
    *("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"),
    *("video_preprocessor_config.json", "generation_config.json"),
)
ADAPTER = "adapter_config.json"
KERNELS = ("attn_implementation", "experts_implementation")  # in keys; a name with a slash is code of the hub


def local_folder(model: str) -> Path | None:
    """The folder of this machine that `model` names; `None` for a name on the hub."""
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def _cached(model: str, revision: str, name: str) -> Path | None:
    """A file of a hub model, where the hub's local cache has it."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def resolve_revision(model: str, revision: str, digests: FileDigests) -> tuple[str, str]:
    """What identifies a model: ("local", digest of the folder) or (name on the hub, commit).

    The hub's local cache is read first, so that a cached model needs no network.

    Raises:
        UserError: the model is neither a folder, nor in the local cache, nor available on the hub.
    """
    if folder := local_folder(model):
        if not list(folder.glob("*.safetensors")):
            raise UserError(f"expected safetensors weights in {folder}, got none")
        return LOCAL, digests.digest_folder(folder, CHECKPOINT_SUFFIXES)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        if cached := _cached(model, revision, "config.json"):
            return model, cached.parent.name  # …/snapshots/<commit>/config.json
        commit = HfApi().model_info(model, revision=revision, timeout=20).sha
    except HFValidationError as error:
        raise UserError(f"expected a hub model's name or a local folder, got {model!r}, which is neither") from error
    except _hub_errors() as error:
        raise UserError(
            f"the model {model!r} (revision {revision!r}) is not in the local hub cache, and it cannot be fetched from "
            f"the hub: {first_line(error)}\nDownload it on a machine with network access (`hf download {model}`), or "
            "name a local folder: encoder.<modality>.model=/path/to/folder"
        ) from error
    assert commit is not None
    return model, commit


def _folder(model: str, revision: str) -> Path | None:
    """The folder of this machine with a model's files; `None` where there is none."""
    from huggingface_hub.errors import HFValidationError

    if folder := local_folder(model):
        return folder
    with suppress(HFValidationError):  # the path of a folder that is not here
        if cached := _cached(model, revision, "config.json"):
            return cached.parent
    return None


def is_available(model: str, revision: str) -> bool:
    """Whether a model is a folder of this machine, or in the hub's local cache."""
    return _folder(model, revision) is not None


def checkpoint_files(model: str, revision: str) -> list[Path]:
    """The files of a resolved model that decide its output.

    Raises:
        UserError: they are not on this machine.
    """
    folder = _folder(model, revision)
    files = sorted(path for path in folder.iterdir() if path.suffix in CHECKPOINT_SUFFIXES) if folder else []
    if not any(path.suffix == ".safetensors" for path in files):
        raise UserError(f"expected the checkpoint of {model!r} on this machine, as safetensors, got {folder or 'none'}")
    return [path for path in files if path.is_file()]


def _hub_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """The errors of a request to the hub, with those of the HTTP client that the hub's library uses, and `others`."""
    from huggingface_hub.errors import HfHubHTTPError

    errors: list[type[Exception]] = [OSError, HfHubHTTPError]
    for name in ("httpx2", "httpx", "requests"):
        with suppress(ImportError):
            client = import_module(name)
            errors.append(getattr(client, "HTTPError", None) or client.RequestException)
    return (*errors, *others)


def _location(model: str, revision: str, part: str) -> tuple[str, dict[str, str]]:
    """Name and options for `from_pretrained`: a folder where all files are present, so that no network is needed.

    The file `part` is needed beside the weights.
    """
    if folder := local_folder(model):
        return str(folder), {}
    if cached := _cached(model, revision, part):
        snapshot = cached.parent
        index = snapshot / "model.safetensors.index.json"
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        if all((snapshot / shard).exists() for shard in shards):
            return str(snapshot), {}
    return model, {"revision": revision}


def read_settings(model: str, revision: str, name: str) -> dict[str, Any]:
    """Reads one of the JSON files of a resolved model, such as its `config.json`.

    Raises:
        UserError: the file is missing or contains no JSON object.
    """
    try:
        if folder := local_folder(model):
            path = folder / name
        else:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(model, name, revision=revision))
        settings = read_json(path)
    except _hub_errors(ValueError, UserError) as error:
        reason = first_line(error)
        raise UserError(f"expected {name} in the checkpoint of {model!r}, it cannot be read: {reason}") from error
    if not isinstance(settings, dict):
        kind = type(settings).__name__
        raise UserError(f"expected a JSON object in {name} of the checkpoint of {model!r}, got {kind}")
    for key, value in _pairs(settings):
        if key == "auto_map" and value:
            raise _code_refusal(f"{key}={value}", name, model)
        if any(word in key for word in KERNELS) and any("/" in text for text in _texts(value)):
            raise _code_refusal(f"a kernel of the hub, {key}={value}", name, model)
    return settings


def check_no_code(model: str, revision: str) -> None:
    """Refuses a checkpoint that brings code, kernels of the hub or an adapter to load with it.

    Raises:
        UserError: names the file and the key.
    """
    folder = local_folder(model)
    for name in (*SETTINGS, ADAPTER):
        path = folder / name if folder else _cached(model, revision, name)
        if name != "config.json" and (path is None or not path.exists()):
            continue
        read_settings(model, revision, name)
        if name == ADAPTER:
            raise UserError(f"expected a whole model, got an adapter, {ADAPTER} in the checkpoint of {model!r}")


def _code_refusal(got: str, name: str, model: str) -> UserError:
    return UserError(
        f"expected a checkpoint without code of its own, got {got} ({name} of {model!r}); emorec runs no code that "
        "comes with a model: use one whose class is part of transformers"
    )


def _pairs(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, value) of mappings at any depth."""
    waiting: list[Any] = [settings]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield from node.items()
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _texts(value: Any) -> list[str]:
    values = list(value.values()) if isinstance(value, dict) else [value]
    return [text for text in values if isinstance(text, str)]


def _conversion_advice(model: str, revision: str, reason: str) -> str:
    """How to convert a hub model that has pickled weights only; empty for other models."""
    if local_folder(model):
        return ""
    if "with `safetensors`" not in reason and not _cached(model, revision, "pytorch_model.bin"):
        return ""
    convert = "from transformers import AutoModel as M; M.from_pretrained('FOLDER').save_pretrained('FOLDER')"
    return (
        "\nOnly safetensors are loaded, as a pickle can run code. If you trust the model, convert it once:\n"
        f"  hf download {model} --revision {revision} --local-dir FOLDER\n"
        f'  python -c "{convert}"\n'
        "and name the folder: encoder.<modality>.model=FOLDER"
    )


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """Within the block transformers draws no bars of weights that are loaded; those of downloads are drawn."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()  # also the hub's
    enable_progress_bars()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def load_pretrained(factory: Any, model: str, revision: str) -> Any:
    """Calls `from_pretrained` of a class of transformers. Never runs code that comes with the model.

    For a class of networks, all weights must be in the checkpoint.

    Raises:
        UserError: the checkpoint cannot be loaded, or lacks weights that features need.
    """
    from safetensors import SafetensorError

    check_no_code(model, revision)
    name, options = _location(model, revision, PARTS.get(getattr(factory, "__name__", ""), "config.json"))
    of_weights = hasattr(factory, "_model_mapping") or hasattr(factory, "base_model_prefix")
    # by default transformers computes in the type that the checkpoint is stored in
    checks = {"use_safetensors": True, "output_loading_info": True, "dtype": "float32"} if of_weights else {}
    try:
        with _quiet_bars():
            loaded = factory.from_pretrained(name, trust_remote_code=False, **checks, **options)
    except _hub_errors(ValueError, RuntimeError, SafetensorError) as error:
        advice = _conversion_advice(model, revision, first_line(error))
        raise UserError(f"the model {model!r} cannot be loaded: {first_line(error)}{advice}") from error
    if not of_weights:
        return loaded
    network, report = loaded
    missing = sorted(key for key in report["missing_keys"] if not any(word in key for word in UNUSED))
    if missing:
        count = len(missing)
        raise UserError(f"expected all weights in the checkpoint of {model!r}, missing are {missing[:5]} ({count})")
    return network
