"""Transcripts."""

from emorec.media.source import MediaError, Source


def read_text(source: Source) -> str:
    """The transcript without white space around it.

    Raises:
        MediaError: there is nothing in it.
    """
    text = (source.text or "").strip()
    if not text:
        raise MediaError("the text is empty")
    return text
