"""An encoder's output changes only together with its `version`, which identifies stored features."""

from pathlib import Path

import pytest

from tests.encoders.golden import CHOICES, HOW_TO_RENEW, agree, can_run, make, output, read, summary


def test_every_encoder_without_a_hub_model_has_golden_numbers() -> None:
    assert sorted(read()) == sorted(CHOICES), f"expected golden numbers of each encoder; {HOW_TO_RENEW}"


@pytest.mark.parametrize("choice", CHOICES)
def test_the_output_changes_only_with_the_version(choice: str, tmp_path: Path) -> None:
    if not can_run(choice):
        pytest.skip("needs a package of an extra")
    golden, encoder = read()[choice], make(choice)
    actual, expected = summary(output(encoder, tmp_path)), golden["summary"]
    if golden["version"] != encoder.version:
        pytest.fail(f"the version is {encoder.version}, golden numbers are of {golden['version']}: {HOW_TO_RENEW}")
    same = agree(encoder.modality, actual, expected)
    assert same, f"the output changed, the version did not: {HOW_TO_RENEW}\nexpected {expected}\ngot {actual}"


@pytest.mark.parametrize("choice", CHOICES)
def test_golden_numbers_notice_a_small_change(choice: str, tmp_path: Path) -> None:
    if not can_run(choice):
        pytest.skip("needs a package of an extra")
    encoder = make(choice)
    values = output(encoder, tmp_path)
    golden = summary(values)
    assert agree(encoder.modality, summary(values), golden)
    assert not agree(encoder.modality, summary(values * 1.05), golden)
    assert not agree(encoder.modality, summary(values[:, ::-1]), golden)
    assert not agree(encoder.modality, summary(values[:, 1:]), golden)
