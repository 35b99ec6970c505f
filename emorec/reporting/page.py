"""The report as one HTML page that needs no network and no other file."""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from emorec import __version__
from emorec.config.keys import OPERATIONAL, is_location
from emorec.escaping import for_terminal
from emorec.markdown import with_deviation
from emorec.reporting.aggregate import Group
from emorec.reporting.comparison import Comparison
from emorec.reporting.hardest import Hard
from emorec.reporting.run_difference import command_of
from emorec.reporting.tables import Row, Table
from emorec.reporting.text_tables import BEST, TextTable, comparison_table, tables_of_contest

if TYPE_CHECKING:
    from emorec.reporting.figures import Picture

HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"
MOST_COMMANDS = 50  # of a group
FILTERED = 4  # rows of a table that can be filtered
CODE = re.compile(r"`([^`]*)`")


@dataclass(frozen=True)
class GroupView:
    """What the page shows of a group beside its row."""

    row: Row
    pictures: Sequence["Picture"] = ()
    hardest: Sequence[Hard] = ()


def text(value: object) -> str:
    """A value as HTML: nothing in it is markup, and control characters are written out."""
    return escape(for_terminal(str(value)))


def page_of(
    tables: Sequence[Table],
    comparisons: Sequence[Comparison],
    views: Sequence[GroupView],
    benchmarks: Sequence[TextTable] = (),
) -> str:
    """The page.

    Args:
        tables: of the report.
        comparisons: of groups of these tables.
        views: of the groups that are shown in detail.
        benchmarks: tables of groups beside published figures.
    """
    count = sum(len(row.group.runs) for table in tables for row in table.rows)
    shown = {id(view.row): view for view in views}
    parts = [f"<h1>Report</h1><p class=note>{count} runs, emorec {text(__version__)}</p>"]
    parts += [_written(item, f"benchmark{number}") for number, item in enumerate(benchmarks)]
    for number, table in enumerate(tables):
        written = tables_of_contest(table, calibration=True)
        written += [comparison_table(item) for item in comparisons if item.table is table]
        parts.append(f"<h2>{text(table.heading)}</h2>")
        parts += [_written(item, f"table{number}_{place}") for place, item in enumerate(written)]
        parts += [_details(table, shown[id(row)]) for row in table.rows if id(row) in shown]
    style, script = ((HERE / f"page.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>emorec report</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head>\n<body>{''.join(parts)}\n<script>{script}</script></body></html>\n"
    )


def _table(headers: Iterable[str], rows: Iterable[Sequence[str]], *, name: str = "") -> str:
    """A table of cells that are HTML, which the reader sorts by a click on a header if it has a name."""
    heads = "".join(f"<th>{text(header)}</th>" for header in headers)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    own = f' id="{name}" class="sorts"' if name else ""
    return f"<div class=wide><table{own}><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"


def _written(table: TextTable, name: str) -> str:
    """A table in words, with a field that filters its rows where there are many."""
    first = _link if table.headers[0] == "group" else text
    rows = [[first(row[0]), *(_marked(cell) for cell in row[1:])] for row in table.rows]
    title = f"<h3>{text(table.title)}</h3>" if table.title else ""
    notes = [CODE.sub(r"<code>\1</code>", text(note)) for note in table.notes if note]
    below = "".join(f"<p class=note>{note}</p>" for note in notes)
    field = f'<input type="search" placeholder="filter rows" aria-label="filter rows" data-filters="{name}">'
    return f"{title}{field if len(rows) >= FILTERED else ''}{_table(table.headers, rows, name=name)}{below}"


def _link(group: str) -> str:
    return f'<a href="#{text(group)}">{text(group)}</a>'


def _marked(cell: str) -> str:
    return "<strong class=best>best</strong>" if cell == BEST else text(cell)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _details(table: Table, view: GroupView) -> str:
    """Figures, utterances, config and commands of a group, folded."""
    group = view.row.group
    best = view.row.estimates.get(table.ranked_by)
    score = "" if best is None else f", {table.ranked_by} {with_deviation(best.mean, best.deviation)}"
    title = " ".join([group.group_id, *view.row.values])
    pictures = "".join(
        f'<figure><img alt="{text(item.what)}" src="{_data("image/png", item.png)}">'
        f"<figcaption>{text(item.what)}</figcaption></figure>"
        for item in view.pictures
    )
    parts = [
        f"<div class=pictures>{pictures}</div>" if pictures else "",
        _hardest(view.hardest, is_class=table.contest.kind == "classification"),
    ]
    parts += [_config(group), _commands(group)]
    opened = " open" if view.row.place == 1 or len(table.rows) == 1 else ""
    return (
        f'<details id="{text(group.group_id)}"{opened}><summary>{text(title)}{text(score)}</summary>'
        f"{''.join(parts)}</details>"
    )


def _hardest(hard: Sequence[Hard], *, is_class: bool) -> str:
    """The hardest utterances with their text and sound."""
    if not hard:
        return ""
    rows = []
    for item in hard:
        player = f'<audio controls preload=none src="{_data("audio/flac", item.sound)}"></audio>' if item.sound else ""
        cells = [item.id, item.speaker, item.target, item.predicted, f"{item.score:.3f}", item.runs, item.text]
        rows.append([*map(text, cells), player])
    score = "p of the true class" if is_class else "distance"
    headers = ["utterance", "speaker", "true", "predicted", score, "runs", "text", "sound"]
    return f"<h3>Hardest utterances</h3>{_table(headers, rows)}"


def _config(group: Group) -> str:
    config = group.runs[0].config
    own = {
        key: value
        for key, value in sorted(config.items())
        if key.split(".")[0] not in (*OPERATIONAL, "seed") and not is_location(key) and key != "dataset.fold"
    }
    rows = [[text(key), text("null" if value is None else value)] for key, value in own.items()]
    return f"<details><summary>Config</summary>{_table(['key', 'value'], rows)}</details>"


def _commands(group: Group) -> str:
    lines = [command_of(run.record) for run in group.runs[:MOST_COMMANDS]]
    if more := len(group.runs) - len(lines):
        lines.append(f"# and {more} more")
    return f"<details><summary>Commands</summary><pre>{text(chr(10).join(lines))}</pre></details>"
