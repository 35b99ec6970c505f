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
    keys = [number for number in range(len(table.keys)) if len({row.values[number] for row in table.rows}) > 1]
    notes = [f"{table.heading}.", protocols_text(table).replace("`", "")]
    if len(keys) > MOST_KEYS:
        notes.append(f"The groups differ in {len(keys)} keys, which report.md shows.")
        keys = []
    names = [table.keys[number] for number in keys]
    headers = [for_latex(key) for key in ("group", *names, "± over", *table.metrics)]
    rows = []
    for row in table.rows:
        values = [row.values[number] for number in keys]
        cells = [for_latex(cell) for cell in (row.group.group_id, *values, row.group.over or NONE)]
        ranked, *others = [_estimate(row.estimates.get(metric)) for metric in table.metrics]
        rows.append([*cells, _marked(ranked, row.place), *others])
    if any(row.place for row in table.rows):
        notes.append(f"Bold and underlined: the best and the second by {table.ranked_by}.")
    if table.clusters:
        notes.append(f"In brackets: 95 % interval over {table.clusters} of test.")
    return _floating(headers, rows, texts=2 + len(keys), caption=for_latex(" ".join(notes)))


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
    caption = (
        f"{table.heading}: less {comparison.baseline.group.group_id} {' '.join(comparison.baseline.values)}".strip()
    )
    caption += ". Intervals of 95 % and p by the paired bootstrap; Wilcoxon's test and Cohen's d_z over matched runs."
    return _floating([for_latex(header) for header in headers], rows, texts=2 + len(keys), caption=for_latex(caption))


def latex_of(tables: Sequence[Table], comparisons: Sequence[Comparison] = ()) -> str:
    """All tables, for `\\input` into a paper that uses booktabs and graphicx."""
    return "\n".join([*map(group_latex, tables), *map(comparison_latex, comparisons)])
