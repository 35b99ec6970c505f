"""Text of corpora cannot steer what shows it."""

import io
import json
import logging
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from emorec.cli import main
from emorec.errors import UserError
from emorec.escaping import EscapedStream, for_csv, for_figure, for_latex, for_markdown, for_terminal
from emorec.markdown import markdown_table
from emorec.runs.confusion_figure import confusion_figure
from emorec.runs.logs import log_to

HOSTILE = "a\x1b[2J\x9b31m\x07\r\u202eb\x7f\udcff"


def test_a_terminal_gets_no_control_characters() -> None:
    assert for_terminal(HOSTILE) == r"a\u001b[2J\u009b31m\u0007\u000d\u202eb\u007f\udcff"
    for_terminal(HOSTILE).encode()
    assert for_terminal("Zoë\t说\n👩‍🚀 é") == "Zoë\t说\n👩‍🚀 é"


def test_escaped_json_is_the_same_json() -> None:
    text = "é \x9b\u202e\x1b\udcff"
    assert json.loads(for_terminal(json.dumps(text, ensure_ascii=False))) == text


def test_markdown_holds_no_html_links_or_pictures() -> None:
    assert for_markdown("<script>x</script>") == "&lt;script>x&lt;/script>"
    assert for_markdown("![x](http://a) &lt;b> R&B & co") == "![x]\\(http://a) &amp;lt;b> R&B & co"
    assert for_markdown("one\n# two\t|\x1b") == "one # two \\|\\u001b"


@pytest.mark.parametrize("cell", ["a|b", "a\\|b", "a\\\\|b", "|", "a\\"])
def test_no_cell_of_a_table_ends_early(cell: str) -> None:
    row = markdown_table(["x", "y"], [[cell, "1"]]).splitlines()[2]
    assert len(re.findall(r"(?:\\.|[^|\\])+", row.strip("|"))) == 2, row


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_no_cell(cell: str) -> None:
    assert for_csv(cell) == f"'{cell}"
    assert for_csv(for_csv(cell)) == for_csv(cell)
    assert (for_csv(-1.5), for_csv("a=b")) == (-1.5, "a=b")


def test_a_label_is_no_formula_of_a_figure(tmp_path: Path) -> None:
    assert for_figure("$x") == "\\$x"
    figure = confusion_figure([[1, 0], [0, 1]], ["$\\frac{$", "b\x1b"], title="$\\undefined$")
    figure.savefig(tmp_path / "figure.png")


def test_what_commands_print_is_escaped() -> None:
    stream = io.StringIO()
    with redirect_stdout(EscapedStream(stream)):  # type: ignore[type-var]
        print(HOSTILE)
    assert stream.getvalue() == for_terminal(HOSTILE) + "\n"


def test_errors_of_commands_are_escaped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: object) -> None:
        print(HOSTILE)
        raise UserError(f"one\n  - {HOSTILE}")

    monkeypatch.setattr("emorec.cli.check_words", fail)
    assert main(["data", "check"]) == 2
    printed = capsys.readouterr()
    assert printed.out == for_terminal(HOSTILE) + "\n"
    assert printed.err == f"emorec data: one\n  - {for_terminal(HOSTILE)}\n"


def test_logs_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("emorec"), "propagate", False)  # pytest cannot pass halves of characters on
    with log_to(tmp_path / "log.txt"):
        logging.getLogger("emorec.test").warning("note: %s", HOSTILE)
    assert for_terminal(HOSTILE) in (tmp_path / "log.txt").read_text()


def test_nothing_in_a_text_is_a_command_of_latex() -> None:
    assert for_latex(r"50% \input{x}_1 & a^b~") == (
        r"50\% \textbackslash{}input\{x\}\_1 \& a\textasciicircum{}b\textasciitilde{}"
    )
    assert for_latex("née ± 1\n愤") == r"née $\pm$ 1 U+6124"
