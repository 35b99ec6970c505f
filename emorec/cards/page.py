"""A page of examples: one HTML file without scripts, which loads nothing."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emorec.cards.card import COLOURS
from emorec.cards.examples import Example
from emorec.cards.words import Word
from emorec.datasets.utterance import Task
from emorec.escaping import for_terminal

if TYPE_CHECKING:
    from emorec.training.evaluation import Evaluation

FOR, AGAINST = "0,114,178", "213,94,0"  # red, green and blue of words
WIDTH, HEIGHT = 560, 64  # of a curve, pixels
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid #ccc; }
article { border: 1px solid #ddd; border-radius: 6px; padding: .8rem 1rem; margin: .8rem 0; }
h3 { margin: 0; font-size: 1rem; overflow-wrap: anywhere; }
.right { color: #00664a; } .wrong { color: #a33c00; }
.what { color: #555; margin: .1rem 0 .6rem; }
.words span { border-radius: 3px; padding: 0 .15em; }
svg { display: block; max-width: 100%; } figure { margin: .6rem 0; } figcaption { color: #555; font-size: .85rem; }
"""
INTRODUCTION = """\
Bars show what each modality adds to the output of the predicted class (Shapley values), from the prior to the output
with all modalities. Curves show what each part of the clip adds to the logit of that class (integrated gradients), from
its start to its end. Words in blue raise the output of that class and words in orange lower it: the output changes so
much when a word is left out. All this describes the model. It does not say what causes an emotion."""


def page_of(evaluation: "Evaluation", shown: Sequence[Mapping[str, Any]], task: Task) -> str:
    """The page, of what `emorec.cards.explanation` collects of each example."""
    title = f"Run {evaluation.record.run_id} on {evaluation.data.manifest.dataset}, {evaluation.split}"
    sections: dict[str, list[str]] = {}
    for item in shown:
        sections.setdefault(item["example"].section, []).append(_article(item, task))
    body = "\n".join(f"<h2>{_text(name)}</h2>\n{''.join(items)}" for name, items in sections.items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<p>{INTRODUCTION}</p>\n{body}\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """Text of a corpus or a run, for HTML."""
    return html.escape(for_terminal(text))


def _article(item: Mapping[str, Any], task: Task) -> str:
    example: Example = item["example"]
    sure = "" if example.confidence is None else f", probability {example.confidence:.3f}"
    parts = [
        f'<h3><span class="{_kind(example)}">{_text(example.title)}</span> {_text(example.id)}</h3>',
        f'<p class="what">true {_text(example.target)}, predicted {_text(example.predicted)}{sure}</p>',
    ]
    words: list[Word] = item["words"]
    if words:
        parts.append(f'<p class="words">{_shaded(words)}</p>')
    elif item["text"]:
        parts.append(f'<p class="words">{_text(item["text"])}</p>')
    parts.append(_bars(item))
    parts += [_curve(name, values) for name, values in item["curves"].items()]
    return f"<article>{''.join(parts)}</article>\n"


def _kind(example: Example) -> str:
    return "right" if example.title in ("right", "near") else "wrong"


def _shaded(words: Sequence[Word]) -> str:
    """The words, each as strong in colour as its weight among the largest."""
    largest = max((abs(word.weight) for word in words if word.weight is not None), default=0.0) or 1.0
    spans = []
    for word in words:
        if word.weight is None:
            spans.append(f"<span>{_text(word.text)}</span>")
            continue
        colour, strength = (FOR if word.weight > 0 else AGAINST), 0.6 * abs(word.weight) / largest
        style = f"background:rgba({colour},{strength:.2f})"
        spans.append(f'<span style="{style}" title="{word.weight:+.3f}">{_text(word.text)}</span>')
    return " ".join(spans)


def _bars(item: Mapping[str, Any]) -> str:
    """From the prior to the output: a bar for each modality, which begins where the last one ends."""
    shares: Mapping[str, float] = item["shares"]
    stations = [item["start"]]
    for share in shares.values():
        stations.append(stations[-1] + share)
    low, high = min(0.0, *stations), max(1.0, *stations) if item["example"].confidence is not None else max(stations)
    left, right, row = 60, WIDTH - 60, 20
    scale = (right - left) / ((high - low) or 1.0)
    drawn = []
    for index, (name, share) in enumerate(shares.items()):
        start, end = sorted((stations[index], stations[index + 1]))
        top = index * row
        x, width = left + (start - low) * scale, max(1.0, (end - start) * scale)
        drawn.append(
            f'<text x="0" y="{top + 14}" font-size="13">{_text(name)}</text>'
            f'<rect x="{x:.1f}" y="{top + 3}" width="{width:.1f}" height="{row - 6}" fill="{COLOURS[name]}" '
            f'fill-opacity="{1 if share >= 0 else 0.45}"/>'
            f'<text x="{right + 8}" y="{top + 14}" font-size="13">{share:+.3f}</text>'
        )
    height = row * len(shares)
    edges = "".join(
        f'<line x1="{left + (value - low) * scale:.1f}" x2="{left + (value - low) * scale:.1f}" y1="0" y2="{height}" '
        'stroke="#888" stroke-dasharray="2 2"/>'
        for value in (stations[0], stations[-1])
    )
    caption = f"from {item['start']:.3f} to {item['output']:.3f}"
    return _figure(f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">{edges}{"".join(drawn)}</svg>', caption)


def _curve(modality: str, values: Sequence[float]) -> str:
    """What each stretch of time adds, as a filled line around zero."""
    largest = max(map(abs, values)) or 1.0
    middle, step = HEIGHT / 2, WIDTH / max(1, len(values) - 1)
    points = [f"{index * step:.1f},{middle - value / largest * (middle - 2):.1f}" for index, value in enumerate(values)]
    line = " ".join(points)
    return _figure(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">'
        f'<line x1="0" x2="{WIDTH}" y1="{middle}" y2="{middle}" stroke="#bbb"/>'
        f'<polygon points="0,{middle} {line} {WIDTH},{middle}" fill="{COLOURS[modality]}" fill-opacity="0.25"/>'
        f'<polyline points="{line}" fill="none" stroke="{COLOURS[modality]}"/></svg>',
        f"{modality} over time, up to ±{largest:.3g} of the logit in one of {len(values)} parts",
    )


def _figure(drawing: str, caption: str) -> str:
    return f"<figure>{drawing}<figcaption>{_text(caption)}</figcaption></figure>"
