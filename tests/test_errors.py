from collections.abc import Callable

import pytest
from omegaconf.errors import OmegaConfBaseException

from emorec.config.hydra_errors import hydra_errors
from emorec.errors import Preempted, UserError, raise_interruption


def cleaning_up() -> None:
    """A library that meets another error while it cleans up after a signal."""
    try:
        raise KeyboardInterrupt
    finally:
        None.missing  # type: ignore[attr-defined]  # noqa: B018


def making_a_class() -> None:
    """What Python 3.11 makes of a signal that comes while a class is made."""
    raise RuntimeError("Error calling __set_name__") from Preempted("SIGTERM")


def wrapping() -> None:
    try:
        cleaning_up()
    except AttributeError as error:
        raise OmegaConfBaseException("no attribute") from error


@pytest.mark.parametrize(
    ("work", "expected"),
    [(cleaning_up, KeyboardInterrupt), (making_a_class, Preempted), (wrapping, KeyboardInterrupt)],
)
def test_a_signal_is_found_in_the_errors_that_hide_it(work: Callable[[], None], expected: type[BaseException]) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        work()
    with pytest.raises(expected):
        raise_interruption(raised.value)


def test_other_errors_hide_nothing() -> None:
    raise_interruption(ValueError("wrong"))
    raise_interruption(UserError("expected more"))


def test_ctrl_c_while_a_config_is_composed_is_no_wrong_config() -> None:
    with pytest.raises(KeyboardInterrupt), hydra_errors():
        wrapping()
