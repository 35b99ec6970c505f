"""Small pretrained checkpoints, made on the spot and saved as the hub has them."""

import json
from pathlib import Path
from typing import Any

import torch

WORDS = (
    "i you we are am is was feel so very not happy sad angry calm today again well the rain letter news about this that"
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz:.,!?"
HIDDEN = 16
LAYERS = 2


def save_tokenizer(folder: Path, padding_side: str = "right") -> None:
    """Saves a WordPiece tokenizer that knows `WORDS` and spells everything else."""
    from transformers import BertTokenizerFast

    pieces = [*SPECIAL, *WORDS.split(), *CHARACTERS, *(f"##{character}" for character in CHARACTERS)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "padding_side": padding_side}))


def save_bert(folder: Path, *, seed: int = 0, padding_side: str = "right", **config: Any) -> Path:
    """Saves a BERT of two layers with random weights; its dropout is large, so that one left on is seen."""
    from transformers import BertConfig, BertModel

    settings = {
        "vocab_size": 128,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 192,
        "hidden_dropout_prob": 0.5,
        "attention_probs_dropout_prob": 0.5,
        "initializer_range": 0.3,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(BertConfig(**{**settings, **config})).save_pretrained(folder)
    save_tokenizer(folder, padding_side)
    return folder


def save_gpt(folder: Path) -> Path:
    """Saves a GPT-2 of two layers with random weights, and a tokenizer that knows no padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["</s>", "<unk>", *WORDS.split()]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    config = GPT2Config(vocab_size=64, n_embd=HIDDEN, n_layer=LAYERS, n_head=2, n_positions=192, initializer_range=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2Model(config).save_pretrained(folder)
    return folder
