"""Any text model of the Hugging Face hub, or of a local folder."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.encoders.encoder import Inputs, StoredType, Training
from emorec.encoders.huggingface import HuggingFaceEncoder, Precision
from emorec.encoders.layers import Layer, chosen_states, needs_hidden_states
from emorec.errors import UserError
from emorec.media.fields import checked_count
from emorec.media.source import Source
from emorec.media.text import read_text

POOLINGS = ("none", "mean", "cls", "last")


def pool_tokens(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector a text, whichever side is padded.

    Args:
        hidden: (B, T, D).
        mask: (B, T), true where there is a token.
        pooling: "mean" over tokens, "cls" the first token, "last" the last token.

    Returns:
        (B, 1, D)
    """
    if pooling == "mean":
        weights = mask[:, :, None].to(hidden.dtype)
        return (hidden * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    places = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "cls":
        chosen = torch.where(mask, places, mask.shape[1]).argmin(1)  # (B,)
    else:
        chosen = torch.where(mask, places, -1).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), chosen][:, None]


class HuggingFaceText(HuggingFaceEncoder):
    """A pretrained text encoder, frozen; features (T, D), or (1, D) where they are pooled.

    Args:
        model: the model's name on the hub, or a local folder made by `save_pretrained`.
        revision: branch, tag or commit on the hub; what it resolves to counts. Not used for a local folder.
        layer: which hidden states: -1 the last layer, 0 the embeddings; a list of numbers or "all" for several layers.
        pooling: "mean", "cls", "last", or "none" for all tokens.
        max_length: longer texts are cut; with context turns the oldest tokens go first.
        context_turns: how many earlier turns of the dialogue are read before the text.
        template: how a turn reads, with {speaker} and {text}; used with context turns.
        precision: what the forward pass computes in: "float32", "bfloat16", or "float16" (on a GPU).
        training: "frozen".
        dtype: how features are stored.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        model: str,
        revision: str = "main",
        layer: Layer = -1,
        pooling: str = "mean",
        max_length: int = 128,
        context_turns: int = 0,
        template: str = "{speaker}: {text}",
        precision: Precision = "float32",
        training: Training = "frozen",
        dtype: StoredType = "float32",
    ) -> None:
        super().__init__(
            model=model, revision=revision, layer=layer, precision=precision, training=training, dtype=dtype
        )
        if pooling not in POOLINGS:
            raise UserError(f"expected encoder.text.pooling in {POOLINGS}, got {pooling!r}")
        checked_count(max_length, "encoder.text.max_length", low=1)
        checked_count(context_turns, "encoder.text.context_turns")
        self.pooling = pooling
        self.max_length = max_length
        self.context_turns = context_turns
        self.template = template
        self._tokenizer: Any = None

    def settings(self) -> dict[str, Any]:
        checkpoint, revision = self._resolve()
        processor: dict[str, Any] = {"max_length": self.max_length, "precision": self.precision}
        if self.context_turns:
            processor["template"] = self.template
        return {
            "checkpoint": checkpoint,
            "revision": revision,
            "pooling": self.pooling,
            "processor": processor,
        }

    def source(self, utterance: Utterance, manifest: Manifest, *, view: int = 0) -> Source | None:
        if utterance.text is None or not self.context_turns:
            return super().source(utterance, manifest)
        turns = manifest.previous_turns(utterance, self.context_turns)
        context = tuple(self._turn(turn.speaker, turn.text) for turn in turns if turn.text)
        prompt = self._turn(utterance.speaker, "{text}")
        return Source(modality="text", text=utterance.text, prompt=prompt, context=context)

    def _turn(self, speaker: str | None, text: str) -> str:
        return self.template.replace("{speaker}", speaker or "?").replace("{text}", text)

    def load(self) -> None:
        if self._backbone is not None:
            return
        import transformers

        self._tokenizer = self._pretrained(transformers.AutoTokenizer)
        self._tokenizer.padding_side = "right"  # padding on the left would shift absolute positions
        self._tokenizer.truncation_side = "left" if self.context_turns else "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        backbone = self._frozen(transformers.AutoModel)
        self._require_layers(backbone)
        positions = self._positions(backbone)
        if self.max_length > positions:
            raise UserError(
                f"expected encoder.text.max_length up to {positions} for {self.model}, got {self.max_length}"
            )
        self._backbone = backbone

    @staticmethod
    def _positions(backbone: Any) -> int:
        """How many tokens the model takes; RoBERTa's table begins behind the padding's number."""
        offset = backbone.config.pad_token_id + 1 if "roberta" in backbone.config.model_type else 0
        return int(getattr(backbone.config, "max_position_embeddings", 1 << 30)) - offset

    def read(self, source: Source) -> str:
        text = read_text(source)
        current = source.prompt.replace("{text}", text) if source.prompt else text
        return "\n".join((*source.context, current))

    def length(self, item: str) -> int:
        return len(item)

    def collate(self, items: Sequence[str]) -> Inputs:
        tokens = self._tokenizer(
            list(items), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        with self._autocast(inputs["input_ids"].device):
            output = self._backbone(**inputs, output_hidden_states=needs_hidden_states(self.layers))
        hidden = chosen_states(output, self.layers).float()  # (B, T, L · D)
        mask = inputs["attention_mask"].bool()
        if self.pooling == "none":
            return hidden * mask[:, :, None], mask
        pooled = pool_tokens(hidden, mask, self.pooling)
        return pooled, torch.ones(len(pooled), 1, dtype=torch.bool, device=pooled.device)
