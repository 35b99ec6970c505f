"""Small pretrained checkpoints, saved in the hub's layout."""

import json
from collections.abc import Callable
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
    """Saves a WordPiece tokenizer of `WORDS` that splits other words into letters."""
    from transformers import BertTokenizerFast

    pieces = [*SPECIAL, *WORDS.split(), *CHARACTERS, *(f"##{character}" for character in CHARACTERS)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "padding_side": padding_side}))


def save_bert(folder: Path, *, seed: int = 0, padding_side: str = "right", **config: Any) -> Path:
    """Saves a BERT of two layers with random weights; its dropout is large, so that tests notice it."""
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
    """Saves a GPT-2 of two layers with random weights, and a tokenizer without a padding token."""
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


CONVOLUTIONS = {"conv_dim": (8,) * 7}  # kernels and strides stay those of the real models: 400 samples, every 320
SPEECH = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.5,
    "attention_dropout": 0.5,
    "activation_dropout": 0.5,
    "feat_proj_dropout": 0.5,
    "layerdrop": 0.5,
    "initializer_range": 0.3,
    **CONVOLUTIONS,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
PICTURE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 224,
    "patch_size": 56,
    "hidden_dropout_prob": 0.5,
    "attention_probs_dropout_prob": 0.5,
    "initializer_range": 0.3,
}
HALF = {"image_mean": [0.5, 0.4, 0.45], "image_std": [0.5, 0.3, 0.25], "do_normalize": True, "do_rescale": True}


def _save(kind: str, config: dict[str, Any], folder: Path, seed: int, network: str = "Model") -> Path:
    """Saves the network `<kind>Model` with random weights, the same for a seed."""
    import transformers

    made = getattr(transformers, f"{kind}Config")(**config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{kind}{network}")(made)
        for parameter in model.parameters():
            if parameter.ndim == 4:  # convolutions of pictures keep the size of what goes in
                parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
            else:  # biases and gains are noticed as well
                parameter.data += 0.05 * torch.randn_like(parameter)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # transformers makes it with a gain of 0
                module.weight.data += 2
        model.save_pretrained(folder)
    return folder


def _save_speech(kind: str, folder: Path, seed: int, *, do_normalize: bool, **config: Any) -> Path:
    from transformers import Wav2Vec2FeatureExtractor

    large = config.get("feat_extract_norm") == "layer"
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize, return_attention_mask=large).save_pretrained(folder)
    return _save(kind, {**SPEECH, **config}, folder, seed)


def _save_whisper(folder: Path, seed: int) -> Path:
    from transformers import WhisperFeatureExtractor

    WhisperFeatureExtractor(feature_size=16).save_pretrained(folder)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"d_model": HIDDEN, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 16}
    layers = {"encoder_layers": LAYERS, "decoder_layers": 1}
    dropout = {"dropout": 0.5, "attention_dropout": 0.5, "encoder_layerdrop": 0.5}
    tokens = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return _save("Whisper", {**heads, **widths, **layers, **dropout, **tokens, "init_std": 0.3}, folder, seed)


def _save_pictures(
    kind: str, folder: Path, seed: int, *, network: str = "Model", processor: dict[str, Any], **config: Any
) -> Path:
    saved = _save(kind, config, folder, seed, network)
    (folder / "preprocessor_config.json").write_text(json.dumps({**HALF, **processor}))
    return saved


def _save_clip(folder: Path, seed: int) -> Path:
    tower = {**PICTURE, "attention_dropout": 0.5, "projection_dim": 8}
    words = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    text = {**words, "num_attention_heads": 2, "projection_dim": 8}
    sizes = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
    config = {"vision_config": tower, "text_config": text, "projection_dim": 8}
    return _save_pictures("CLIP", folder, seed, processor={**sizes, "rescale_factor": 1 / 255}, **config)


def _save_efficientnet(folder: Path, seed: int) -> Path:
    config = {
        "image_size": 224,
        "hidden_dim": 320,  # 1280 times the width
        "width_coefficient": 0.25,
        "depth_coefficient": 0.2,
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "kernel_sizes": [3, 5],
        "depthwise_padding": [],
        "strides": [2, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 4],
        "dropout_rate": 0.5,
        "drop_connect_rate": 0.5,
    }
    processor = {"size": {"height": 224, "width": 224}, "do_center_crop": False, "include_top": True}
    return _save_pictures("EfficientNet", folder, seed, processor={**processor, "crop_size": 200}, **config)


CLIP_SIZES = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
SAVERS: dict[str, Callable[[Path, int], Path]] = {
    "bert": lambda folder, seed: save_bert(folder, seed=seed),
    "wav2vec2_group": lambda folder, seed: _save_speech("Wav2Vec2", folder, seed, do_normalize=True),
    "wav2vec2_layer": lambda folder, seed: _save_speech("Wav2Vec2", folder, seed, do_normalize=True, **LARGE),
    "hubert_group": lambda folder, seed: _save_speech("Hubert", folder, seed, do_normalize=True),
    "hubert_layer": lambda folder, seed: _save_speech("Hubert", folder, seed, do_normalize=True, **LARGE),
    "wavlm_group": lambda folder, seed: _save_speech("WavLM", folder, seed, do_normalize=False),
    "wavlm_layer": lambda folder, seed: _save_speech("WavLM", folder, seed, do_normalize=True, **LARGE),
    "data2vec_audio": lambda folder, seed: _save_speech(
        "Data2VecAudio", folder, seed, do_normalize=True, conv_pos_kernel_size=5, num_conv_pos_embeddings=3
    ),
    "whisper": _save_whisper,
    "vit": lambda folder, seed: _save_pictures("ViT", folder, seed, processor={"size": 224}, **PICTURE),
    "vit_classifier": lambda folder, seed: _save_pictures(
        "ViT", folder, seed, network="ForImageClassification", processor={"size": 224}, **PICTURE, num_labels=7
    ),
    "clip": _save_clip,
    "efficientnet": _save_efficientnet,
    "videomae": lambda folder, seed: _save_pictures(
        "VideoMAE", folder, seed, processor=CLIP_SIZES, **PICTURE, num_frames=16, tubelet_size=2
    ),
    "timesformer": lambda folder, seed: _save_pictures(
        "Timesformer", folder, seed, processor=CLIP_SIZES, **PICTURE, num_frames=8
    ),
    "vivit": lambda folder, seed: _save_pictures(
        "Vivit",
        folder,
        seed,
        processor={**CLIP_SIZES, "offset": True, "rescale_factor": 1 / 127.5},
        **PICTURE,
        num_frames=8,
        tubelet_size=[2, 56, 56],
    ),
}
# Start of an encoder's name -> the kind of its network; the longest that fits.
FAMILIES = {
    "text/": "bert",
    "audio/wav2vec2_": "wav2vec2_layer",
    "audio/wav2vec2_base": "wav2vec2_group",
    "audio/hubert_base": "hubert_group",
    "audio/hubert_large": "hubert_layer",
    "audio/wavlm_base": "wavlm_group",
    "audio/wavlm_large": "wavlm_layer",
    "audio/data2vec_audio": "data2vec_audio",
    "audio/whisper": "whisper",
    "video/vit_": "vit",
    "video/vit_face": "vit_classifier",
    "video/clip": "clip",
    "video/efficientnet": "efficientnet",
    "video/videomae": "videomae",
    "video/timesformer": "timesformer",
}


def family_of(choice: str) -> str:
    """The kind of network behind `modality/name`."""
    fitting = [start for start in FAMILIES if choice.startswith(start)]
    assert fitting, f"expected the kind of network of {choice} in FAMILIES, got none"
    return FAMILIES[max(fitting, key=len)]


class TinyCheckpoints(dict[str, Path]):
    """{family: folder of a small pretrained model}, each made when it is first asked for.

    Args:
        folder: where they are made.
        seed: of their weights.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        super().__init__()
        self.folder = folder
        self.seed = seed

    def __missing__(self, family: str) -> Path:
        folder = self.folder / f"{family}_{self.seed}"
        folder.mkdir()
        self[family] = SAVERS[family](folder, self.seed)
        return self[family]
