"""`emorec runs ls|sweeps|show|verify|gc|rm|export|sync`: manages the runs."""

from collections.abc import Sequence

from emorec.commands.arguments import duration, parse, subcommands

ACTIONS = {
    "ls": "lists the runs",
    "sweeps": "lists the multiruns",
    "show": "shows a run: its record, its metrics, its scores by class; or how two runs differ",
    "verify": "hashes all weights again and follows all links",
    "gc": "removes weights that no run links to; a dry run without --yes",
    "rm": "removes a run; a dry run without --yes",
    "export": "copies a run to a new folder, with real files in place of links",
    "sync": "uploads runs that W&B has kept offline",
}


def main(arguments: Sequence[str]) -> int:
    """Runs a subcommand; `verify` returns 1 where something is broken, `sync` where an upload failed."""
    parser, action = subcommands("runs", "Manages the runs.", ACTIONS)
    action["ls"].add_argument("--sweep", metavar="NAME", help="the jobs of one multirun, with their runs")
    action["gc"].add_argument("--grace", type=duration, default=86400.0, help="untouched for so long, 1d by default")
    for name in ("gc", "rm"):
        action[name].add_argument("--yes", action="store_true", dest="act", help="remove them")
    action["show"].add_argument("runs", nargs="+", metavar="run", help="the run's id, or the first digits of it")
    only = action["show"].add_mutually_exclusive_group()
    only.add_argument("--diff", action="store_true", help="how two runs differ: config, data, features, code, metrics")
    only.add_argument("--command", action="store_true", help="the command line that makes the run")
    for name in ("rm", "export"):
        action[name].add_argument("run", help="the run's id, or the first digits of it")
    action["export"].add_argument("folder", help="a new folder")
    action["sync"].add_argument("runs", nargs="*", metavar="run", help="ids of runs, or the first digits of them")
    action["sync"].add_argument("--all", action="store_true", help="all runs")
    action["sync"].add_argument("--dry-run", action="store_false", dest="act", help="only list uploads")
    action["sync"].add_argument("--timeout", type=duration, default=600.0, help="for each upload, 10m by default")
    parsed, paths = parse(parser, arguments)
    from emorec.commands.run_actions import run_action

    return run_action(parsed, paths.checkpoints)
