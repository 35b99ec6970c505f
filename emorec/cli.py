"""`emorec <command> …`. Imports nothing heavy: a command's module is imported when it is called."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial

from emorec import __version__
from emorec.config.credentials import check_words
from emorec.config.texts import check_texts
from emorec.errors import Preempted, UserError, raise_interruption
from emorec.escaping import EscapedStream, for_terminal
from emorec.training.preemption import Preemption, ignore_signals

COMMANDS = {
    "train": "train one model, or with -m one for each combination of values",
    "tune": "search for the config that is best on validation",
    "extract": "compute and store the features of a corpus",
    "evaluate": "apply a finished run to a split, or to another corpus",
    "predict": "apply a finished run to files that have no labels",
    "export": "write a finished run as a folder that needs no emorec",
    "report": "compare finished runs: tables and figures",
    "data": "check, download, fixture: check a corpus, download it, or write a small one",
    "cache": "ls, verify, gc, compact: manage the stored features",
    "runs": "ls, sweeps, show, verify, gc, rm, export, sync: manage the runs",
}
SAVING = ("train", "tune", "extract")  # a signal ends them in an orderly way
COMPLETION_FLAGS = ("-sc", "--shell-completion")

USAGE = "\n".join(
    [
        "emorec: experiments in emotion recognition from text, audio and video",
        "",
        "usage: emorec <command> [key=value …] [flags]",
        "",
        *(f"  {name:<10}{text}" for name, text in COMMANDS.items()),
        "",
        "emorec <command> --help says more; emorec --version prints the version.",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 for a failed job or a fatal finding, 2 for a user's error,
    75 where a signal asked for a later start, 130 for ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        os.environ["PYTHONSAFEPATH"] = "1"  # the processes it starts import nothing from their working directory
    first = given[0] if given else "--help"
    if first in COMMANDS:
        code = run_command(first, partial(_call, first, given[1:]))
        if arguments is None:  # only Python's shutdown is left
            ignore_signals()
        return code
    if first in COMPLETION_FLAGS:
        return int(importlib.import_module("emorec.commands.completion").main(given, list(COMMANDS)))
    answers = {"--help": USAGE, "-h": USAGE, "help": USAGE, "--version": f"emorec {__version__}"}
    if first in answers:
        print(answers[first])
        return 0
    print(f"emorec: expected a command in {list(COMMANDS)}, got {first!r}", file=sys.stderr)
    return 2


def _call(command: str, arguments: Sequence[str]) -> int:
    check_texts(arguments)
    check_words(arguments)
    try:
        return int(importlib.import_module(f"emorec.commands.{command}").main(arguments))
    except Exception as error:
        raise_interruption(error)
        raise


def run_command(command: str, action: Callable[[], int]) -> int:
    """Calls what a command does, prints its error, and returns the exit code that `main` describes."""
    with Preemption() if command in SAVING else nullcontext():
        return _exit_code(command, action)


def _exit_code(command: str, action: Callable[[], int]) -> int:
    try:
        with redirect_stdout(EscapedStream(sys.stdout)):  # type: ignore[type-var]
            return action()
    except UserError as error:
        message, code = str(error), 2
    except KeyboardInterrupt:
        message, code = f"interrupted{'; the same command resumes' if command in SAVING else ''}", 130
    except Preempted as stopped:
        message, code = f"{stopped}; the same command resumes", Preempted.exit_code
    except BrokenPipeError:  # the reader of the output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        message, code = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2
    print(for_terminal(f"emorec {command}: {message}"), file=sys.stderr)
    return code
