"""Any text model of the Hugging Face hub, or of a local folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from emorec.annotations import Count, PositiveCount
from emorec.augmentation.streams import Augment
from emorec.augmentation.tokens import TokenAugmentation
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.encoders.below_cut import as_rows
from emorec.encoders.encoder import Inputs, Training
from emorec.encoders.huggingface import HuggingFaceEncoder
from emorec.encoders.layer_stack import LayerStack
from emorec.encoders.text_part import TextPart
from emorec.encoders.trained import pool_layers
from emorec.media.source import Source
from emorec.media.text import read_text


@dataclass(kw_only=True, eq=False)
class HuggingFaceText(HuggingFaceEncoder):
    """A pretrained text encoder: tokens (T, D), or one vector (1, D).

    Args:
        pooling: "mean" over tokens, "mean_std" with their standard deviation (2 D), "cls" the first token, "last" the
            last token, or "none" for all tokens.
        max_length: longer texts are cut; with context turns the oldest tokens are cut off.
        context_turns: number of earlier turns of the dialogue that are read before the text.
        template: format of a turn, with {speaker} and {text}; used with context turns.
        question: follows the text, such as "Now {speaker} feels", which pooling="last" reads; used with context turns
            (after Song et al. 2022, arXiv 2210.08713, without a mask).
        augmentation: of the tokens, where all layers train.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    pooling: Literal["none", "mean", "mean_std", "cls", "last"] = "mean"
    max_length: PositiveCount = 128
    context_turns: Count = 0
    template: str = "{speaker}: {text}"
    question: str | None = None
    augmentation: TokenAugmentation | None = None

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        self._tokenizing = Lock()  # a fast tokenizer refuses to be set up in one thread while another uses it

    @property
    def processor(self) -> dict[str, Any]:
        template = {"template": self.template} if self.context_turns else {}
        question = {"question": self.question} if self.context_turns and self.question else {}
        return {"max_length": self.max_length, **template, **question}

    def source(self, utterance: Utterance, manifest: Manifest, *, view: int = 0) -> Source | None:
        if utterance.text is None or not self.context_turns:
            return super().source(utterance, manifest)
        turns = manifest.previous_turns(utterance, self.context_turns)
        context = tuple(self._turn(turn.speaker, turn.text) for turn in turns if turn.text)
        prompt = self._turn(utterance.speaker, "{text}")
        if self.question:
            prompt += f" {self._turn(utterance.speaker, '', self.question)}"
        return Source(modality="text", text=utterance.text, prompt=prompt, context=context)

    def _turn(self, speaker: str | None, text: str, template: str | None = None) -> str:
        return (template or self.template).replace("{speaker}", speaker or "?").replace("{text}", text)

    def _load_network(self) -> Any:
        import transformers

        self._tokenizer: Any = self._pretrained(transformers.AutoTokenizer)
        self._tokenizer.padding_side = "right"  # padding on the left would shift absolute positions
        self._tokenizer.truncation_side = "left" if self.context_turns else "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        backbone = self._frozen(transformers.AutoModel)
        self._require_layers(backbone)
        # RoBERTa's positions start after the padding's index
        offset = backbone.config.pad_token_id + 1 if "roberta" in backbone.config.model_type else 0
        positions = getattr(backbone.config, "max_position_embeddings", 1 << 30) - offset
        if self.max_length > positions:
            raise self._misfit(f"max_length up to {positions}", self.max_length)
        return backbone

    def tokenizer_text(self) -> str:
        """The content of a `tokenizer.json` that cuts texts as this encoder does.

        Raises:
            UserError: the tokenizer has no such file.
        """
        self.load()
        own = getattr(self._tokenizer, "backend_tokenizer", None)
        if own is None:
            raise self._misfit("model with a tokenizer.json", type(self._tokenizer).__name__)
        with self._tokenizing:
            own.enable_truncation(self.max_length, direction=self._tokenizer.truncation_side)
            own.no_padding()
            text: str = own.to_str(pretty=True)
        return text

    def _part(self, loaded: Any, stack: LayerStack, **options: Any) -> TextPart:
        return TextPart(stack=stack, padding=self._tokenizer.pad_token_id, **options)

    def augment(self) -> Augment | None:
        if self.augmentation is None:
            return None
        self.load()
        tokenizer = self._tokenizer
        hidden = (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id)
        replacement = next(token for token in hidden if token is not None)
        return partial(self.augmentation.vary, replacement=replacement, kept=tuple(tokenizer.all_special_ids))

    decoded_dtype = "int32"
    decoded_width = 1

    def decoded_settings(self) -> dict[str, Any]:
        checkpoint, revision = self.resolved
        return {"checkpoint": checkpoint, "revision": revision, "processor": self.processor}

    def decoded(self, source: Source) -> NDArray[Any]:
        self.load()
        with self._tokenizing:
            tokens = self._tokenizer(self.read(source), truncation=True, max_length=self.max_length)
        return as_rows(np.array(tokens["input_ids"]), np.int32)

    def read(self, source: Source) -> str:
        text = read_text(source)
        current = source.prompt.replace("{text}", text) if source.prompt else text
        return "\n".join((*source.context, current))

    def collate(self, items: Sequence[str]) -> Inputs:
        tokens = self._tokenizer(
            list(items), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        with self._autocast(inputs["input_ids"].device):
            output = self._output(**inputs)
        hidden = self._states(output).float()  # (B, T, L · D)
        mask = inputs["attention_mask"].bool()
        return pool_layers(hidden, mask, self.pooling, len(self.layers))
