"""The error a user can cause and mend."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Says what was expected, what was found and where; ends a command with exit code 2."""


class Preempted(BaseException):
    """The machine is wanted for something else: a signal asked this process to save and to end.

    No `Exception`, as a `KeyboardInterrupt` is none: whoever goes on after any error does not go on after this.

    Ends a command with exit code 75 (EX_TEMPFAIL of sysexits.h), which asks a scheduler to queue it again.
    """

    exit_code = 75


def raise_problems(heading: str, problems: Iterable[str], *, shown: int = 20) -> None:
    """Raises one `UserError` that lists every problem, if there is any.

    Args:
        heading: what was being checked.
        problems: one line each.
        shown: how many lines are printed before the rest is only counted.
    """
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
    """{name: what its maker returned}; raises one `UserError` that lists what all of them raised."""
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
    """The choice called `name`.

    Raises:
        UserError: there is none of that name; says which there are.
    """
    if name not in choices:
        raise UserError(f"expected {what} in {sorted(choices)}, got {name!r}")
    return choices[name]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
