"""Texts that no file and no path can hold. Imports nothing heavy: every command line is looked at first."""

from collections.abc import Callable, Iterator, Sequence

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


def word_problems(words: Sequence[str], problem_of: Callable[[str, str], str | None]) -> Iterator[tuple[str, str]]:
    """(where, problem) of each word of a command line that has a problem: under its key, or which word it is.

    Args:
        words: overrides, flags and others.
        problem_of: the problem of a key, empty for a word that is not named by one, and its value.
    """
    for number, word in enumerate(words, start=1):
        key, separator, value = word.partition("=")
        key = key.lstrip("+~-")
        named = bool(separator) and problem_of("", key) is None
        if problem := problem_of(key, value) if named else problem_of("", word):
            yield key if named else f"word {number}", problem


def check_texts(words: Sequence[str]) -> None:
    """Refuses a command line whose words cannot be used.

    Raises:
        UserError: names each override, or the place of a word that is none.
    """
    problems = word_problems(words, lambda key, value: text_problem(value))
    raise_problems("the command line", [f"{where}: {problem}" for where, problem in problems])
