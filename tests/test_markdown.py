"""Tables are aligned Markdown whatever their cells hold."""

import re

from emorec.markdown import markdown_table, with_deviation


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert markdown_table(["a", "score"], [["gated", "0.5"], ["x", "0.123456"]]).splitlines() == [
        "| a     | score    |",
        "|-------|----------|",
        "| gated | 0.5      |",
        "| x     | 0.123456 |",
    ]


def test_a_column_is_at_least_as_wide_as_a_rule_must_be() -> None:
    assert markdown_table(["a"], [["b"]]).splitlines() == ["| a   |", "|-----|", "| b   |"]


def test_a_table_without_rows_has_its_header() -> None:
    assert markdown_table(["run", "status"], []).splitlines() == ["| run | status |", "|-----|--------|"]


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    lines = markdown_table(["what", "n"], [["a|b", "1"], ["plain", "2"]]).splitlines()
    assert lines[2] == "| a\\|b  | 1   |"
    assert len({len(line) for line in lines}) == 1, "the columns stay aligned"
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3] * 4


def test_a_mean_is_written_with_its_deviation_where_there_is_one() -> None:
    assert with_deviation(0.54321, 0.01234) == "0.543 ± 0.012"
    assert with_deviation(0.5, 0.0) == "0.500 ± 0.000"
    assert with_deviation(0.54321, None) == "0.543"
