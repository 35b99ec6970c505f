"""The tables of a report as LaTeX, with booktabs."""

from collections.abc import Sequence

from emorec.escaping import for_latex
from emorec.reporting.comparison import Comparison
from emorec.reporting.markdown_tables import NONE, p_text, protocols_text, signed_rank_text
from emorec.reporting.statistics import Interval
from emorec.reporting.tables import Estimate, Row, Table

DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\begin{document}
%s
\end{document}
"""
WIDE = 100  # characters that fit a page
MOST_KEYS = 4  # columns of what groups differ in


def _interval(interval: Interval | None, form: str = "{:.3f}") -> str:
    return "" if interval is None else f" [{form.format(interval.low)}, {form.format(interval.high)}]"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "--"
    deviation = "" if estimate.deviation is None else rf" $\pm$ {estimate.deviation:.3f}"
    return f"{estimate.mean:.3f}{deviation}{_interval(estimate.interval)}"


def _marked(text: str, place: int | None) -> str:
    """The best in bold, the second underlined."""
    return rf"\textbf{{{text}}}" if place == 1 else rf"\underline{{{text}}}" if place == 2 else text


def _floating(headers: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int, caption: str) -> str:
    """A table of LaTeX cells, of which the first `texts` columns are aligned left."""
    columns = "l" * texts + "r" * (len(headers) - texts)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(headers) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    body = "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])
    if sum(max(map(len, column)) for column in zip(headers, *rows, strict=True)) > WIDE:
        body = f"\\resizebox{{\\linewidth}}{{!}}{{%\n{body}}}"
    return f"\\begin{{table}}[htbp]\n\\centering\\small\n{body}\n\\caption{{{caption}}}\n\\end{{table}}\n"


def group_latex(table: Table) -> str:
    """The groups of one contest. The best and the second are marked in the column that ranks, which is of validation;
    nothing is marked by test."""
    shown = [number for number in range(len(table.keys)) if len({row.values[number] for row in table.rows}) > 1]
    keys = shown if len(shown) <= MOST_KEYS else []
    deviations = {row.group.over for row in table.rows}
    has_column = len(deviations) > 1  # else the caption says it for all
    headers = ["group", *(table.keys[number] for number in keys), *(["± over"] if has_column else []), *table.metrics]
    rows = []
    for row in table.rows:
        texts = [row.group.group_id, *(row.values[number] for number in keys)]
        texts += [row.group.over or NONE] if has_column else []
        ranked, *others = [_estimate(row.estimates.get(metric)) for metric in table.metrics]
        rows.append([*map(for_latex, texts), _marked(ranked, row.place), *others])
    notes = [
        f"{table.heading}.",
        protocols_text(table).replace("`", ""),
        f"The groups differ in {len(shown)} keys, which report.md shows." if shown and not keys else "",
        "" if has_column or deviations == {""} else f"± over {next(iter(deviations))}.",
        f"Bold and underlined: the best and the second by {table.ranked_by}."
        if any(r.place for r in table.rows)
        else "",
        f"In brackets: 95 % interval over {table.clusters} of test." if table.clusters else "",
    ]
    caption = for_latex(" ".join(note for note in notes if note))
    return _floating([*map(for_latex, headers)], rows, texts=len(headers) - len(table.metrics), caption=caption)


def comparison_latex(comparison: Comparison) -> str:
    """The differences of groups from a baseline."""
    table = comparison.table
    keys = table.keys if len(table.keys) <= MOST_KEYS else ()
    headers = ["group", *keys, "metric", "difference", "p", "p (Holm)", "Wilcoxon p", "d_z"]
    rows = []
    for item in comparison.differences:
        row: Row = item.row
        texts = [row.group.group_id, *(row.values if keys else ()), item.metric]
        numbers = [p_text(item.p), p_text(item.corrected), signed_rank_text(item.signed_rank)]
        numbers.append(NONE if item.effect is None else f"{item.effect:+.2f}")
        difference = f"{item.value:+.3f}{_interval(item.interval, '{:+.3f}')}"
        rows.append([for_latex(cell) for cell in (*texts, difference, *numbers)])
    named = " ".join(comparison.baseline.values) if keys else ""
    caption = f"{table.heading}: less {comparison.baseline.group.group_id} {named}".strip()
    caption += ". Intervals of 95 % and p by the paired bootstrap; Wilcoxon's test and Cohen's d_z over matched runs."
    return _floating([for_latex(header) for header in headers], rows, texts=2 + len(keys), caption=for_latex(caption))


def latex_of(tables: Sequence[Table], comparisons: Sequence[Comparison] = ()) -> str:
    """All tables, for `\\input` into a paper that uses booktabs and graphicx."""
    return "\n".join([*map(group_latex, tables), *map(comparison_latex, comparisons)])
