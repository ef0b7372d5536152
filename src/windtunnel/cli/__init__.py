"""The command line. Only what the asked command needs is loaded: ``--help`` takes no longer than printing it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from windtunnel.errors import Infeasible, ScenarioError

DONE, BUG, WRONG, INFEASIBLE, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: the answer is there; a bug of windtunnel; the request is wrong; it is right but does not fit."""

DEBUG = "WINDTUNNEL_DEBUG"
"""Set to 1 in the environment, it shows where a bug is."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``windtunnel`` with ``argv`` (the process's own arguments by default) and return the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    for name in ("stdout", "stderr"):  # either may be closed (`>&-`)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it stays open as long as the process
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has seen enough (`| head`). What is still buffered goes nowhere, and nobody is told at exit.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)


def _run(arguments: list[str]) -> int:
    try:
        from windtunnel.cli.application import run

        return run(arguments)
    except ScenarioError as error:
        return _say(str(error), WRONG)
    except Infeasible as error:
        return _say(str(error), INFEASIBLE)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _say(f"cannot write the output: {error.strerror or error}", WRONG)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        what = f"{type(error).__name__}: {error}"
        return _say(f"this is a bug in windtunnel, please report it ({DEBUG}=1 shows where): {what}", BUG)


def _say(message: str, code: int) -> int:
    """One line on standard error, whatever the message holds."""
    line = "".join(c if c.isprintable() else " " for c in message)
    print(f"windtunnel: {line}", file=sys.stderr)
    return code
