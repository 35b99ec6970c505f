"""What typing, speech recognition and gaps do to text.

Each function takes a text and a generator of random numbers. Words are what lies between spaces; at least one stays.
"""

import string
from collections.abc import Sequence

from numpy.random import Generator

SUBSTITUTED, DELETED = 0.6, 0.25  # of the errors of recognition; the rest are insertions
KINDS = ("swap", "leave out", "double", "replace")  # of typing errors


def _some(count: int, share: float, generator: Generator) -> list[int]:
    """So many of the numbers from 0 on, in order: `share` of them on average, whatever the count."""
    wanted = share * count
    size = min(count, int(wanted) + int(generator.random() < wanted % 1))
    return sorted(generator.choice(count, size=size, replace=False).tolist()) if size else []


def typing_errors(text: str, generator: Generator, *, share: float) -> str:
    """A share of the letters is swapped with the next, left out, doubled or replaced by another."""
    letters = [index for index, letter in enumerate(text) if letter.isalpha()]
    changed = list(text)
    for chosen in _some(len(letters), share, generator):
        index = letters[chosen]
        kind = KINDS[int(generator.integers(len(KINDS)))]
        if kind == "swap" and index + 1 < len(text):
            changed[index], changed[index + 1] = changed[index + 1], changed[index]
        elif kind == "leave out" and len(letters) > 1:
            changed[index] = ""
        elif kind == "double":
            changed[index] += text[index]
        else:
            changed[index] = string.ascii_lowercase[int(generator.integers(26))]
    return "".join(changed) if "".join(changed).strip() else text


def recognition_errors(text: str, generator: Generator, *, rate: float, vocabulary: Sequence[str]) -> str:
    """So many words in a word are substituted, left out, or followed by a word that was not said.

    Args:
        text: what was said.
        rate: errors divided by words, on average over texts: the word error rate.
        vocabulary: words of the corpus, each as often as it is said.
    """
    words = text.split()
    wrong = set(_some(len(words), rate, generator))
    result: list[str] = []
    for index, word in enumerate(words):
        draw = generator.random() if index in wrong else 1.0
        other = _other(word, vocabulary, generator) if index in wrong else word
        if index not in wrong:
            result.append(word)
        elif draw < SUBSTITUTED or len(words) == 1:
            result.append(other)
        elif draw >= SUBSTITUTED + DELETED:
            result += [word, other]
    return " ".join(result) or text


def _other(word: str, vocabulary: Sequence[str], generator: Generator) -> str:
    """A word that is another one; the word itself where there is none."""
    for _ in range(10):
        chosen = vocabulary[int(generator.integers(len(vocabulary)))]
        if chosen.lower() != word.lower():
            return chosen
    return word


def missing_words(text: str, generator: Generator, *, share: float) -> str:
    """A share of the words is left out."""
    words = text.split()
    lost = set(_some(len(words), share, generator))
    return " ".join(word for index, word in enumerate(words) if index not in lost) or text


def bare(text: str, generator: Generator) -> str:
    """Lower case without punctuation, as many recognisers write."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation or letter == "'")
    return " ".join(kept.split()) or text
