"""Transcripts."""

import unicodedata

from emorec.media.source import MediaError, Source


def read_text(source: Source) -> str:
    """The transcript without white space around it.

    Raises:
        MediaError: there is nothing in it, or nothing but punctuation.
    """
    text = (source.text or "").strip()
    if not text:
        raise MediaError("the text is empty")
    if all(unicodedata.category(character)[0] in "PZC" for character in text):  # letters, digits and emojis speak
        raise MediaError(f"the text has no words: {text[:20]!r}")
    return text
