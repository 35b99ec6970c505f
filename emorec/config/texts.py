"""Texts that no file and no path can hold. Imports nothing heavy: every command line is looked at first."""

from collections.abc import Sequence

from emorec.errors import raise_problems

SHOWN = 80  # characters of a value in a message


def shown(value: object) -> str:
    """A value as it stands in a message: a long one is cut."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def text_problem(text: str) -> str | None:
    """Why a text cannot be used; `None` for an ordinary one."""
    if "\0" in text:
        return f"expected a text without NUL, got {shown(text)}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"expected a text in UTF-8, got {shown(text)}"
    return None


def check_texts(words: Sequence[str]) -> None:
    """Refuses a command line whose words cannot be used.

    Raises:
        UserError: names each override, or the place of a word that is none.
    """
    problems = []
    for number, word in enumerate(words, start=1):
        key, separator, value = word.partition("=")
        named = bool(separator) and text_problem(key) is None
        if problem := text_problem(value if named else word):
            problems.append(f"{key if named else f'word {number}'}: {problem}")
    raise_problems("the command line", problems)
