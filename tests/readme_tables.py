"""Compares the README's benchmark tables with the reports that they come from, word for word.

    python -m tests.readme_tables            of the runs below EMOREC_ROOT; 1 where a table differs
    python -m tests.readme_tables --write    takes the reports' tables over

A table stands in the README between `<!-- emorec report benchmark=<name> -->` and `<!-- end -->`. One whose sweep has
not been run here is named and left alone.
"""

import difflib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- emorec report benchmark=(\w+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


def tables_in(text: str) -> dict[str, str]:
    """{benchmark: its table} of a README."""
    return {name: table for _, name, table, _ in BLOCK.findall(text)}


def reported(name: str) -> str | None:
    """The table that `emorec report benchmark=<name>` writes; `None`, and a line that says why, where it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["report", f"benchmark={name}", f"output={folder}", "figures=none", "projection=none"]
        done = subprocess.run([sys.executable, "-m", "emorec", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: not checked: {done.stderr.strip()}")
            return None
        text = (Path(folder) / "benchmark.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE))


def main(arguments: list[str]) -> int:
    """Compares all tables, or takes them over; returns 1 where one differs."""
    text, differs = README.read_text(encoding="utf-8"), False
    for name, table in tables_in(text).items():
        found = reported(name)
        if found is None:
            continue
        if found == table:
            print(f"{name}: the README's table is that of the report")
            continue
        if "--write" in arguments:
            text = text.replace(f"benchmark={name} -->\n{table}", f"benchmark={name} -->\n{found}")
            print(f"{name}: written")
            continue
        differs = True
        print(f"{name}: the README's table is not that of the report")
        print(
            *difflib.unified_diff(table.splitlines(), found.splitlines(), "README.md", "report", lineterm="", n=0),
            sep="\n",
        )
    if "--write" in arguments:
        README.write_text(text, encoding="utf-8")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
