"""Exceptions of commands, and helpers that raise them."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """An error that the user can fix: `expected X, got Y (where)`. A command ends with exit code 2."""


class RunTakenOverError(UserError):
    """Another process has taken over the claim of the run that this process trains."""

    def __init__(self) -> None:
        super().__init__(
            "expected this process to keep the claim of its run, got another process that has taken it over and goes "
            "on with the run (this one showed no sign of life for extraction.stale_after seconds): this one ends"
        )


class Preempted(BaseException):
    """A signal asked this process to save and end, as the machine is needed for another job.

    Like `KeyboardInterrupt` it is no `Exception`, so that code which continues after errors does not continue after it.
    A command ends with exit code 75 (EX_TEMPFAIL of sysexits.h), which asks a scheduler to queue it again.
    """

    exit_code = 75


def raise_interruption(error: BaseException) -> None:
    """Raises the ctrl-C or the preemption that an error hides; does nothing if there is none.

    Libraries may meet a second error while they clean up after a signal, and Python 3.11 wraps what a signal's handler
    raises while a class is made.
    """
    hidden: BaseException | None = error
    while hidden is not None:
        if isinstance(hidden, KeyboardInterrupt | Preempted):
            raise hidden from None
        hidden = hidden.__cause__ or hidden.__context__


def raise_problems(heading: str, problems: Iterable[str], *, shown: int = 20) -> None:
    """Raises a `UserError` that lists problems, one line each, the first `shown` of them; does nothing without any."""
    lines = list(problems)
    if not lines:
        return
    if len(lines) == 1:
        raise UserError(f"{heading}: {lines[0]}")
    listed = [f"  - {line}" for line in lines[:shown]]
    if len(lines) > shown:
        listed.append(f"  … and {len(lines) - shown} more")
    raise UserError("\n".join([f"{heading}: {len(lines)} problem(s)", *listed]))


def make_all(heading: str, makers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Calls all makers and returns {name: result}; raises one `UserError` that lists all their errors."""
    results: dict[str, T] = {}
    problems = []
    for name, make in makers.items():
        try:
            results[name] = make()
        except UserError as error:
            problems.append(str(error))
    raise_problems(heading, problems)
    return results


def choose(choices: Mapping[str, T], name: str, what: str) -> T:
    """Returns `choices[name]`.

    Raises:
        UserError: there is no such name; the message lists the names.
    """
    if name not in choices:
        raise UserError(f"expected {what} in {sorted(choices)}, got {name!r}")
    return choices[name]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
