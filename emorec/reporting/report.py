"""Writes the report of a store's runs: Markdown, CSV, LaTeX and figures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emorec.escaping import for_markdown
from emorec.reporting.aggregate import distinction, distinctions
from emorec.reporting.comparison import Comparison
from emorec.reporting.csv_tables import comparisons_csv, groups_csv, runs_csv
from emorec.reporting.hardest import hardest
from emorec.reporting.latex_tables import document_of, latex_of
from emorec.reporting.page import GroupView, page_of
from emorec.reporting.pooled import Pooled
from emorec.reporting.tables import Table
from emorec.reporting.text_tables import TextTable, comparison_table, missing_table, tables_of
from emorec.runs.results import SHOWN
from emorec.storage.atomic import write_bytes, write_text
from emorec.storage.folders import check_real_folder, list_folder

if TYPE_CHECKING:
    from emorec.reporting.exploration import Explore, Method
    from emorec.reporting.figures import Picture

FIGURES = ("confusion_", "curves_", "classes_", "reliability_", "roc_", "scatter_", "projection_")  # in `figures/`
BENCHMARK, COMPARISONS = "benchmark.md", "comparisons.csv"
MOST_DRAWN = 20  # groups whose figures are drawn unless all are asked for

Drawn = Literal["auto", "all", "none"]


def write_report(
    folder: Path,
    tables: Sequence[Table],
    comparisons: Sequence[Comparison] = (),
    benchmarks: Sequence[TextTable] = (),
    *,
    figures: Drawn = "auto",
    explore: "Explore" = lambda _: None,
    projection: "Method" = "none",
) -> str:
    """Writes a report into a folder, and returns its main tables as Markdown.

    The files are `report.html`, a page of all of it that needs no other file, `report.md`, `groups.csv`, `runs.csv`,
    `tables.tex` for papers, `report.tex`, a document of these tables, and `figures/` as PNG and PDF; with comparisons
    `comparisons.csv` too, and with benchmarks `benchmark.md`.

    All of it is made before the first file is written. Files are replaced one by one, and figures of an earlier report
    are removed last: after an error or a kill, every figure that `report.md` links to still exists.

    Args:
        folder: to write to.
        tables: of the report.
        comparisons: of groups of these tables.
        benchmarks: tables of groups beside published figures, which `benchmark.md` holds as well.
        figures: "auto" draws them where there are at most 20 groups.
        explore: reads the corpus and the vectors of a run; asked for the first run of the best group of each table.
        projection: how vectors are shown in the plane.

    Raises:
        OSError: `figures` is a link, whose figures are not this report's to remove.
    """
    check_real_folder(drawn := folder / "figures")
    compared = [comparison_table(comparison).as_markdown() for comparison in comparisons]
    beside = [table.as_markdown() for table in benchmarks]
    draws = are_drawn(tables, figures)
    views = [view for table in tables for view in _views(table, explore, projection)] if draws else []
    files = {
        "report.md": "\n".join(
            ["# Report\n", tables_of(tables, calibration=True), *beside, *compared, *_sections(views)]
        ),
        "groups.csv": groups_csv(tables),
        "runs.csv": runs_csv(tables),
        "tables.tex": latex_of(tables, comparisons),
        "report.tex": document_of(tables, comparisons),
        "report.html": page_of(tables, comparisons, views, benchmarks),
    }
    if benchmarks:
        missing = [item.as_markdown() for table in tables for item in missing_table(table)]
        files[BENCHMARK] = "\n".join([*beside, *missing])
    if comparisons:
        files[COMPARISONS] = comparisons_csv(comparisons)
    pictures: dict[str, bytes] = {}
    for view in views:
        for picture in view.pictures:
            name = _file_name(view, picture)
            pictures |= {f"{name}.png": picture.png, f"{name}.pdf": picture.pdf}
    for name, content in pictures.items():
        write_bytes(drawn / name, content)
    for name, written in files.items():
        write_text(folder / name, written)
    for path in [*list_folder(drawn, "*.png"), *list_folder(drawn, "*.pdf")]:
        if path.name not in pictures and path.name.startswith(FIGURES):
            path.unlink(missing_ok=True)
    for name in {BENCHMARK, COMPARISONS} - files.keys():  # those of an earlier report would pass for this one's
        (folder / name).unlink(missing_ok=True)
    return "\n".join([tables_of(tables), *beside, *compared])


def are_drawn(tables: Sequence[Table], figures: Drawn) -> bool:
    """Whether a report of these tables has figures."""
    return figures == "all" or (figures == "auto" and sum(len(table.rows) for table in tables) <= MOST_DRAWN)


def _views(table: Table, explore: "Explore", projection: "Method") -> Iterator[GroupView]:
    """The details of the groups of a table; of the first, which is the best where they are ranked, also what its corpus
    shows."""
    from emorec.reporting.figures import pictures_of

    for row in table.rows:
        group, first = row.group, row is table.rows[0]
        pooled = None if table.contest.kind not in SHOWN else Pooled.of(group)
        pictures = pictures_of(group, pooled)
        explored = explore(group.runs[0]) if first and pooled is not None else None
        if explored is not None and (plane := explored.picture(projection)) is not None:
            pictures.append(plane)
        utterances = None if explored is None else explored.utterances
        yield GroupView(row, pictures, [] if pooled is None else hardest(group, pooled, utterances))


def _file_name(view: GroupView, picture: "Picture") -> str:
    return f"{picture.kind}_{view.row.group.group_id}"


def _sections(views: Sequence[GroupView]) -> list[str]:
    """The part of `report.md` that shows the figures."""
    if not views:
        return []
    sections = ["## Figures\n"]
    keys = distinctions([view.row.group for view in views])
    for view in views:
        group = view.row.group
        names = " ".join(distinction(group, key) for key in keys) or group.first.choices.get("dataset", "")
        title = f"{group.contest.dataset} {names} ({group.group_id}, n = {len(group.runs)})"
        sections.append(f"### {for_markdown(title)}\n")
        sections += [f"![{item.what}](figures/{_file_name(view, item)}.png)\n" for item in view.pictures]
    return sections
