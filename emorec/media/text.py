"""Transcripts."""

import unicodedata

from emorec.media.source import MediaError, Source


def read_text(source: Source) -> str:
    """The transcript without white space around it.

    Raises:
        MediaError: it is empty, or has only punctuation.
    """
    text = (source.text or "").strip()
    if not text:
        raise MediaError("the text is empty")
    if all(unicodedata.category(character)[0] in "PZC" for character in text):  # emojis count as words
        raise MediaError(f"the text has no words: {text[:20]!r}")
    return text
