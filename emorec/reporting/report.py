"""Writes the report of a store's runs: Markdown, CSV, LaTeX and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from emorec.escaping import for_markdown
from emorec.reporting.aggregate import Group, distinction, distinctions
from emorec.reporting.comparison import Comparison
from emorec.reporting.csv_tables import comparisons_csv, groups_csv, runs_csv
from emorec.reporting.latex_tables import DOCUMENT, latex_of
from emorec.reporting.markdown_tables import comparison_table, tables_of
from emorec.reporting.tables import Table
from emorec.storage.atomic import write_bytes, write_text
from emorec.storage.folders import check_real_folder, list_folder

FIGURES = ("confusion_", "curves_")  # beginnings of the names of figures
COMPARISONS = "comparisons.csv"
MOST_DRAWN = 20  # groups whose figures are drawn unless all are asked for

Drawn = Literal["auto", "all", "none"]


def write_report(
    folder: Path, tables: Sequence[Table], comparisons: Sequence[Comparison] = (), *, figures: Drawn = "auto"
) -> str:
    """Writes a report into a folder, and returns its main tables as Markdown.

    The files are `report.md`, `groups.csv`, `runs.csv`, `tables.tex` for papers, `report.tex`, a document of these
    tables, and `figures/`; with comparisons `comparisons.csv` too.

    All of it is made before the first file is written. Files are replaced one by one, and figures of an earlier report
    are removed last: after an error or a kill, every figure that `report.md` links to still exists.

    Args:
        folder: to write to.
        tables: of the report.
        comparisons: of groups of these tables.
        figures: "auto" draws them where there are at most 20 groups.

    Raises:
        OSError: `figures` is a link, whose figures are not this report's to remove.
    """
    check_real_folder(drawn := folder / "figures")
    compared = [comparison_table(comparison) for comparison in comparisons]
    groups = [row.group for table in tables for row in table.rows]
    pictures, sections = _drawn(groups) if are_drawn(tables, figures) else ({}, [])
    latex = latex_of(tables, comparisons)
    files = {
        "report.md": "\n".join(["# Report\n", tables_of(tables, calibration=True), *compared, *sections]),
        "groups.csv": groups_csv(tables),
        "runs.csv": runs_csv(tables),
        "tables.tex": latex,
        "report.tex": DOCUMENT % latex,
    }
    if comparisons:
        files[COMPARISONS] = comparisons_csv(comparisons)
    for name, picture in pictures.items():
        write_bytes(drawn / name, picture)
    for name, content in files.items():
        write_text(folder / name, content)
    for path in list_folder(drawn, "*.png"):
        if path.name not in pictures and path.name.startswith(FIGURES):
            path.unlink(missing_ok=True)
    if not comparisons:  # those of an earlier report would pass for this one's
        (folder / COMPARISONS).unlink(missing_ok=True)
    return "\n".join([tables_of(tables), *compared])


def are_drawn(tables: Sequence[Table], figures: Drawn) -> bool:
    """Whether a report of these tables has figures."""
    return figures == "all" or (figures == "auto" and sum(len(table.rows) for table in tables) <= MOST_DRAWN)


def _drawn(groups: Sequence[Group]) -> tuple[dict[str, bytes], list[str]]:
    """{name of the file: the picture}, and the sections that show them."""
    keys, sections = distinctions(groups), ["## Figures\n"]
    pictures: dict[str, bytes] = {}
    for group in groups:
        names = " ".join(distinction(group, key) for key in keys) or group.first.choices.get("dataset", "")
        title = f"{group.contest.dataset} {names} ({group.group_id}, n = {len(group.runs)})"
        sections.append(f"### {for_markdown(title)}\n")
        for name, (what, picture) in _figures(group, title).items():
            sections.append(f"![{what}](figures/{name})\n")
            pictures[name] = picture
    return pictures, sections


def _figures(group: Group, title: str) -> dict[str, tuple[str, bytes]]:
    """{name of the file: (what it shows, the picture)}."""
    from emorec.reporting.figures import confusion_png, curves_png

    split = "test" if all("test/loss" in run.numbers for run in group.runs) else "val"
    confusion = confusion_png(group, split=split, title=f"{title}\n{split}")
    shown = {} if confusion is None else {"confusion": (f"confusion matrix on {split}", confusion)}
    shown["curves"] = ("training curves", curves_png(group, title=title))
    return {f"{kind}_{group.group_id}.png": figure for kind, figure in shown.items()}
