"""What is done to text, by its values."""

import numpy as np
import pytest

from emorec.cards import text_changes as texts

SENTENCE = "the cat sat on the mat while a dog was looking at it from far away today"
VOCABULARY = ["sun", "moon", "star", "sea"]


def errors(said: list[str], heard: list[str]) -> int:
    """The edit distance of two lists of words."""
    row = list(range(len(heard) + 1))
    for index, word in enumerate(said, 1):
        last, row[0] = row[0], index
        for column, other in enumerate(heard, 1):
            last, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, last + (word != other))
    return row[-1]


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_recognition_errors_reach_the_word_error_rate(rate: float) -> None:
    generator, wrong, words = np.random.default_rng(0), 0, 0
    for _ in range(400):
        heard = texts.recognition_errors(SENTENCE, generator, rate=rate, vocabulary=VOCABULARY)
        wrong += errors(SENTENCE.split(), heard.split())
        words += len(SENTENCE.split())
    assert wrong / words == pytest.approx(rate, abs=0.01)


def test_recognition_errors_of_short_texts_average_out() -> None:
    generator = np.random.default_rng(0)
    heard = [texts.recognition_errors("oh no", generator, rate=0.1, vocabulary=VOCABULARY) for _ in range(2000)]
    assert sum(errors(["oh", "no"], item.split()) for item in heard) / 4000 == pytest.approx(0.1, abs=0.02)
    assert all(item.split() for item in heard)


def test_missing_words_leave_the_others_in_order() -> None:
    generator, kept = np.random.default_rng(0), 0
    for _ in range(200):
        words = texts.missing_words(SENTENCE, generator, share=0.3).split()
        said = iter(SENTENCE.split())
        assert all(word in said for word in words)  # each after the last
        kept += len(words)
    assert kept / (200 * len(SENTENCE.split())) == pytest.approx(0.7, abs=0.02)


def test_typing_errors_are_few_and_near() -> None:
    generator, distance, letters = np.random.default_rng(0), 0, 0
    for _ in range(200):
        distance += errors(list(SENTENCE), list(texts.typing_errors(SENTENCE, generator, share=0.05)))
        letters += sum(map(str.isalpha, SENTENCE))
    assert 0.03 < distance / letters < 0.09  # a swap counts twice


@pytest.mark.parametrize("text", ["a", "?!", "ok"])
def test_no_text_becomes_empty(text: str) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        assert texts.missing_words(text, generator, share=1.0).strip()
        assert texts.typing_errors(text, generator, share=1.0).strip()
        assert texts.recognition_errors(text, generator, rate=1.0, vocabulary=VOCABULARY).strip()
        assert texts.bare(text, generator).strip()


def test_bare_text_has_no_capitals_and_no_punctuation() -> None:
    assert texts.bare("Well, I don't KNOW...  maybe?", np.random.default_rng(0)) == "well i don't know maybe"
