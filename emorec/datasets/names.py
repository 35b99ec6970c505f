"""Names of people and classes that annotators spell in several ways."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

NUMBER = re.compile(r"(-?)0*([0-9]+)(?:\.([0-9]*?)0*)?")
VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f]")


def name_key(name: str) -> str:
    """Equal for spellings of one name: Unicode forms, capitals, spaces, invisible characters, `1`, `1.0` and `01`."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(
        letter for letter in folded if unicodedata.category(letter) not in ("Cf", "Cc") or letter.isspace()
    )
    key = " ".join(VARIATION_SELECTORS.sub("", visible).split())
    match = NUMBER.fullmatch(key)
    if match is None:
        return key
    sign, whole, fraction = match.groups()
    number = f"{whole}.{fraction}" if fraction else whole
    return number if number == "0" else sign + number


def spellings(names: Iterable[str], preferred: Sequence[str] = ()) -> dict[str, str]:
    """{spelling: the one that stands for it} where they differ: a preferred one, or else the most frequent.

    Args:
        names: every occurrence counts.
        preferred: spellings that stand for others, however rare they are.
    """
    counts = Counter(names)
    chosen = {name_key(name): name for name in preferred}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        chosen.setdefault(name_key(name), name)
    return {name: chosen[name_key(name)] for name in counts if chosen[name_key(name)] != name}
