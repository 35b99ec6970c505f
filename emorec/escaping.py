"""Text of corpora, runs and files as it may be shown: one function for each target."""

import re
from typing import Any

# What steers a terminal or reorders its text, and halves of characters, which no stream can write; less line ends and
# tabs. Written as JSON writes them, so that JSON stays JSON.
_STEERING = (
    *(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"),
    *(0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)),
)
_ESCAPES = {code: f"\\u{code:04x}" for code in _STEERING}
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\textquotedbl{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\dots{}",
    "-": "{-}",  # two of them are no dash
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
}
_SET = frozenset(map(chr, range(0x180))) - frozenset("ĦħĸĿŀŉŦŧſ")  # by pdflatex, with its usual fonts
_ENTITY = re.compile(r"&(?=#?\w+;)")
_BAR = re.compile(r"(\\*)\|")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def for_terminal(text: str) -> str:
    """Text for a terminal or a log: line ends and tabs stay, other control characters are written as `\\u001b`."""
    return text.translate(_ESCAPES)


def for_markdown(text: str) -> str:
    """Text for one line of Markdown, such as a cell or a heading: no HTML, link or picture, and no end of the cell."""
    line = for_terminal(" ".join(text.split()))
    plain = _ENTITY.sub("&amp;", line).replace("<", "&lt;").replace("](", "]\\(")
    return _BAR.sub(r"\1\1\\|", plain)


def for_csv(cell: Any) -> Any:
    """A cell for CSV: a text that a spreadsheet would compute is quoted by `'`; numbers stay."""
    if not isinstance(cell, str):
        return cell
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell


def for_latex(text: str) -> str:
    """Text for LaTeX: nothing in it is a command, and what its usual fonts lack is written as `U+4E2D`."""
    line = for_terminal(" ".join(text.split()))
    known = (_LATEX.get(character, character) for character in line)
    return "".join(text if len(text) > 1 or text in _SET else f"U+{ord(text):04X}" for text in known)


def for_figure(text: str) -> str:
    """Text for a label or title of matplotlib, which would set what is between dollar signs as LaTeX."""
    return for_terminal(text).replace("$", "\\$")


class EscapedStream:
    """A text stream that escapes for a terminal what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return int(self._stream.write(for_terminal(text)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
