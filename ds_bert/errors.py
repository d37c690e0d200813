"""Errors a user can cause, each with the exit code of the command that meets it.

A message says what was found, what was expected and what to do, in one or two lines.
"""

import difflib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

INTERRUPTED = 130  # as shells tell of a process that SIGINT has ended
STOPPED_ON_REQUEST = 75  # EX_TEMPFAIL: saved, start again to go on
STOPPED_TO_GROW = 76  # the same, asked for by `ds-bert launch --elastic`, which goes on itself


class UserError(Exception):
    """Base class: an error that the user can mend; shown without a traceback."""

    exit_code = 1


class ConfigurationError(UserError):
    """Bad command line, configuration file or combination of settings."""

    exit_code = 2


class DataError(UserError):
    """Bad input text, vocabulary or data set."""

    exit_code = 3


class SourceUnavailable(DataError):
    """Text that cannot be read now: a lost disk or connection. Work that is done is kept."""


class CheckpointError(UserError):
    """Missing, damaged or unsuitable checkpoint or model folder."""

    exit_code = 4


class TrainingDiverged(UserError):
    """Training stopped because gradients or losses stayed non-finite."""

    exit_code = 5


class RankFailed(UserError):
    """A rank has ended, hangs, or holds other weights than the rest."""

    exit_code = 6


def require(holds: bool, name: str, found: Any, expected: str) -> None:
    """Refuse the value of a setting: "NAME: found VALUE, expected ...".

    Args:
        holds: whether the value is allowed.
        name: of the setting, as the user writes it.
        found: its value.
        expected: what is allowed, in words.

    Raises:
        ConfigurationError: `holds` is false.
    """
    if not holds:
        raise ConfigurationError(f"{name}: found {found!r}, expected {expected}")


def suggest(found: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known one or, if none is near, all."""
    known = list(known)
    near = difflib.get_close_matches(found, known, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known: {', '.join(sorted(known))}"


def exit_code(error: BaseException) -> int:
    """The exit code of a process that ends with an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_code if isinstance(error, UserError) else 1


def report(error: BaseException) -> None:
    """Print an error to stderr, with a traceback if no user can mend it."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
        return
    if not isinstance(error, UserError) or os.environ.get("DS_BERT_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr, flush=True)


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and leave the process with its exit code.

    A `UserError` prints one `error:` line to stderr instead of a traceback;
    DS_BERT_DEBUG=1 in the environment shows the traceback as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # any text can be printed, if need be as \u00e9
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main() or 0
        sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        if os.environ.get("DS_BERT_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt as error:
        report(error)
        sys.exit(exit_code(error))
