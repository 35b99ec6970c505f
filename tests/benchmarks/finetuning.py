"""Fine-tuning: what storing the frozen layers saves, and what emorec's own path costs."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emorec.datamodules.preparer import DataPreparer
from emorec.encoders.crnn import Crnn
from emorec.encoders.huggingface import HuggingFaceEncoder
from emorec.encoders.huggingface_audio import HuggingFaceAudio
from emorec.encoders.huggingface_text import HuggingFaceText
from emorec.encoders.lora import LoraSettings
from emorec.encoders.trained import TrainedPart
from emorec.training.lifecycle import train
from tests.benchmarks.figure import Figure, rounds_of, seconds
from tests.benchmarks.synthetic import Synthetic
from tests.benchmarks.training import CLASSES, HEAD, composed, median_epoch, raw_network

LAYERS, HIDDEN, BASE = 12, 256, 768  # the width of a network that is quick, and that of a base model
FIRST = 8  # the lower two thirds are frozen
STEPS, BATCH = 4, 16
Split = tuple[Tensor, Tensor, Tensor]  # inputs (N, T, I), mask (N, T), targets (N,)
TOKENS, SAMPLES = 64, 32_000  # of a text, and of 2 s of sound
SLACK = 1.08  # above what arithmetic allows
FRONT = 7.0  # the convolutions of wav2vec 2.0 cost as much as so many layers


def _sizes(width: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }


def _save_text(folder: Path, width: int = HIDDEN) -> Path:
    from transformers import BertConfig, BertModel

    from tests.encoders.tiny_checkpoints import save_tokenizer

    BertModel(BertConfig(**_sizes(width), vocab_size=128)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def _save_speech(folder: Path) -> Path:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    # masks are off: they are drawn below the cut, where there is one
    config = Wav2Vec2Config(
        **_sizes(HIDDEN), feat_extract_norm="layer", conv_dim=(HIDDEN,) * 7, apply_spec_augment=False
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Case:
    """A network whose upper third trains, and what the store saves at most."""

    name: str
    encoder: type[HuggingFaceEncoder]
    inputs: Tensor  # (N, T, 1) decoded
    mode: str
    front: float  # what precedes the layers, in layers

    @property
    def limit(self) -> float:
        """A step with stored states ÷ one without: a forward pass costs 1 a layer, a backward pass 2, by LoRA 1."""
        trained, backward = LAYERS - FIRST, 2 if self.mode == "full" else 1
        return (1 + backward) * trained / (self.front + LAYERS + backward * trained)


def cut(root: Path, *, rounds: int = 3) -> list[Figure]:
    """A step of the upper third of 12 layers on stored states, against one that computes the lower layers as well."""
    generator = np.random.default_rng(0)
    tokens = torch.from_numpy(generator.integers(5, 128, (BATCH, TOKENS, 1)).astype(np.int32))
    sound = torch.from_numpy(generator.integers(-9000, 9000, (BATCH, SAMPLES, 1)).astype(np.int16))
    text, speech = _save_text(root / "text", BASE), _save_speech(root / "speech")
    cases = [
        (Case("text, full", HuggingFaceText, tokens, "full", 0.0), text),
        (Case("text, LoRA", HuggingFaceText, tokens, "lora", 0.0), text),
        (Case("speech, full", HuggingFaceAudio, sound, "full", FRONT), speech),
        (Case("speech, LoRA", HuggingFaceAudio, sound, "lora", FRONT), speech),
    ]
    return [_cut(case, folder, rounds) for case, folder in cases]


def _cut(case: Case, folder: Path, rounds: int) -> Figure:
    made: Any = case.encoder
    encoder = made(model=str(folder), training=case.mode, train_from=FIRST, lora=LoraSettings())
    upper = encoder.trained()
    below = encoder.part(first=0, wanted=(FIRST,), raw=True).requires_grad_(False).eval()
    whole_mask = torch.ones(case.inputs.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        states, mask = below(case.inputs, whole_mask, whole_mask[:, 0])

    def recomputed() -> Tensor:
        with torch.no_grad():
            values, frames = below(case.inputs, whole_mask, whole_mask[:, 0])
        return upper(values, frames, frames[:, 0])[0]  # type: ignore[no-any-return]

    with_store = _loop(upper, lambda: upper(states, mask, mask[:, 0])[0])
    measured = rounds_of(with_store, _loop(upper, recomputed), rounds=rounds)
    ratio = statistics.median(own / peer for own, peer in measured)
    name = f"cut_vs_whole ({case.name})"
    note = f"arithmetic allows {case.limit:.2f}"
    return Figure(name, ratio, "ratio", f"<= {SLACK * case.limit:.3f}", note)


def _loop(part: TrainedPart, features: Callable[[], Tensor]) -> Callable[[], float]:
    """Some training steps of a part with a linear head; returns seconds."""
    head = nn.Linear(part.dim, CLASSES)
    target = torch.arange(BATCH) % CLASSES
    trained = [*head.parameters(), *(item for _, item in part.trained())]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    part.train()

    def step() -> None:
        loss = nn.functional.cross_entropy(head(features()[:, 0]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return lambda: seconds(lambda: [step() for _ in range(STEPS)])


WORDS = [*HEAD, "batch_size=16", "dataset.train=128", "dataset.val=16", "dataset.test=16", "test=false"]
RATE = 1e-4


class _RawText(nn.Module):
    """BERT, in full or with adapters, mean pooling, and emorec's layers of one modality."""

    def __init__(self, folder: Path, mode: str) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import BertModel

        super().__init__()
        network: Any = BertModel.from_pretrained(folder, add_pooling_layer=False)
        if mode == "lora":
            adapters = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["query", "key", "value"])
            network = get_peft_model(network, adapters)
        self.network, self.head = network, raw_network(HIDDEN)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.network(input_ids=tokens[:, :, 0].long(), attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].float()
        return self.head((hidden * weights).sum(1) / weights.sum(1))  # type: ignore[no-any-return]


class _RawCrnn(nn.Module):
    """The network of `Crnn` on standardised bands, and emorec's layers of one modality."""

    def __init__(self, encoder: Crnn) -> None:
        super().__init__()
        self.part = encoder.trained()
        self.head = raw_network(self.part.dim)

    def forward(self, bands: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.part(bands.float(), mask, mask[:, 0])[0][:, 0])  # type: ignore[no-any-return]


def finetuning(root: Path, *, rounds: int = 3) -> list[Figure]:
    """Fine-tuning of BERT, in full and by LoRA, against a loop on ready tensors in memory."""
    folder = _save_text(root / "bert")
    words = ["encoder/text=minilm", f"encoder.text.model={folder}", "encoder.text.training="]
    return [
        _epoch_against_raw(
            root,
            f"finetune_vs_raw_loop ({mode})",
            [*words[:-1], words[-1] + mode],
            partial(_RawText, folder, mode),
            goal=1.10,
            rounds=rounds,
        )
        for mode in ("full", "lora")
    ]


def scratch(root: Path, *, rounds: int = 3) -> Figure:
    """A CRNN on stored log mel bands, against a loop on ready tensors in memory."""
    words = ["encoder/text=none", "encoder/audio=random_crnn", "dataset.files=true"]
    corpus = Synthetic(root=str(root / "data" / "synthetic"), task="emotion", protocol="official")
    corpus.train, corpus.val, corpus.test, corpus.files = 128, 16, 16, True
    corpus.make_files()
    return _epoch_against_raw(
        root, "scratch_epoch_vs_raw_loop", words, lambda: _RawCrnn(Crnn()), goal=1.15, rounds=rounds
    )


def _epoch_against_raw(
    root: Path, name: str, words: list[str], make: Callable[[], nn.Module], *, goal: float, rounds: int
) -> Figure:
    """Epochs 2 and 3 of a training against those of a loop with the same optimizer and validation."""
    preparer = DataPreparer(root / "cache")
    words = [*WORDS, *words, "trainer.max_epochs=3", f"optimizer.lr={RATE}", f"optimizer.encoder_lr={RATE}"]
    config = composed(words).config
    module = preparer.prepare(config, *preparer.components(config)).module(config)
    splits = []
    for split in ("train", "val"):
        batch = module.tables[split].batch(torch.arange(len(module.tables[split])))
        (modality,) = batch.inputs
        splits.append((batch.inputs[modality], batch.mask[modality], batch.targets["emotion"]))
    seeds = iter(range(1_000_000))

    def ours() -> float:
        return median_epoch(train(composed([*words, f"seed={next(seeds)}"]), preparer).folder)

    def raw() -> float:
        network = make()
        trained = [item for item in network.parameters() if item.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
        return statistics.median([seconds(lambda: _raw_epoch(network, optimizer, *splits)) for _ in range(3)][1:])

    measured = rounds_of(ours, raw, rounds=rounds)
    note = ", ".join(f"{own:.2f} s against {peer:.2f}" for own, peer in measured)
    return Figure(name, statistics.median(own / peer for own, peer in measured), "ratio", f"<= {goal}", note)


def _raw_epoch(network: nn.Module, optimizer: torch.optim.Optimizer, train_split: Split, val_split: Split) -> None:
    inputs, mask, target = train_split
    trained = [item for item in network.parameters() if item.requires_grad]
    network.train()
    for rows in torch.randperm(len(inputs)).split(16):
        loss = nn.functional.cross_entropy(network(inputs[rows], mask[rows]), target[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        nn.functional.cross_entropy(network(val_split[0], val_split[1]), val_split[2])
