"""How media become the input of a graph, as plain data for programs without emorec."""

from typing import Any

from emorec.encoders.encoder import Encoder
from emorec.encoders.huggingface_audio import HuggingFaceAudio
from emorec.encoders.huggingface_text import HuggingFaceText
from emorec.encoders.speech_part import TAIL
from emorec.encoders.vocabulary import FIRST, TOKEN_PATTERN, UNKNOWN, WordNumbers

TOKENIZER, VOCABULARY = "tokenizer.json", "vocabulary.json"  # files of the folder


def settings_of(encoder: Encoder, kind: str) -> dict[str, Any]:
    """The settings by which an encoder decodes media."""
    stored = encoder.stored()
    media = {} if encoder.media is None else encoder.media.identity()
    if isinstance(stored, WordNumbers):
        return {
            "vocabulary": VOCABULARY,
            "max_length": stored.max_length,
            "pattern": TOKEN_PATTERN,
            "lower_case": True,
            "replaced": {"’": "'"},
            "unknown": UNKNOWN,
            "first": FIRST,
        }
    if isinstance(encoder, HuggingFaceText):
        return _of_tokens(encoder)
    if kind == "bands":
        assert isinstance(encoder, HuggingFaceAudio)
        return {**media, "mono": True, **_checkpoint(encoder), **encoder.decoded_settings()["processor"], "tail": TAIL}
    return {**media, **({"mono": True, "full_scale": 1.0} if kind == "sound" else {"colours": "RGB"})}


def _of_tokens(encoder: HuggingFaceText) -> dict[str, Any]:
    context = {"template": encoder.template, "question": encoder.question} if encoder.context_turns else {}
    return {
        "tokenizer": TOKENIZER,
        **_checkpoint(encoder),
        "max_length": encoder.max_length,
        "truncation_side": "left" if encoder.context_turns else "right",
        "context_turns": encoder.context_turns,
        **context,
    }


def _checkpoint(encoder: HuggingFaceAudio | HuggingFaceText) -> dict[str, str]:
    """The pretrained checkpoint whose processor applies; a local folder is named by its digest alone."""
    name, revision = encoder.resolved
    return {"checkpoint": name, "revision": revision}
