"""Trying again what another machine did not do at once, and saying why it did not."""

import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ds_bert.errors import DataError, SourceUnavailable

ATTEMPTS = 5
FIRST_PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
_GONE, _DENIED, _BUSY = {404, 410}, {401, 403, 407}, {408, 425, 429}  # statuses of HTTP
_QUERY = re.compile(r"(\w://[^\s?'\"]*)\?[^\s'\")]*")
_PASSWORD = re.compile(r"(\w://)[^\s/@]*@")

Result = TypeVar("Result")


def retried(name: object, attempt: Callable[[], Result]) -> Result:
    """The result of an attempt to read, or of one of the next ones after a pause.

    Args:
        name: of what is read, for messages.
        attempt: may raise whatever file systems and networks raise.

    Raises:
        DataError: there is no such file.
        SourceUnavailable: access is denied, or no attempt has succeeded.
    """
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except Exception as error:
            problem = _explained(name, error)
            if problem is None and number == ATTEMPTS:
                cause = _in_a_line(error)
                problem = SourceUnavailable(f"cannot read {name}: {cause} ({ATTEMPTS} attempts)")
            if problem is not None:
                raise problem from error
        time.sleep(FIRST_PAUSE * 2 ** (number - 1))
    raise AssertionError("the last attempt returns or raises")


def _explained(name: object, error: Exception) -> DataError | None:
    """The error for what no further attempt would mend; None: one may."""
    if isinstance(error, DataError):
        return error
    status = next(_statuses(error), None)
    is_refused = isinstance(error, PermissionError) or "Credentials" in type(error).__name__
    if status in _DENIED or (status is None and is_refused):
        return SourceUnavailable(
            f"access to {name} is denied ({_in_a_line(error)}); give the credentials that its "
            "file system looks for, or ask for access"
        )
    # For fsspec a web page does not exist when its server was not reached, either.
    is_absent = isinstance(error, FileNotFoundError) and not (
        str(name).startswith("http") and error.__cause__
    )
    if status in _GONE or (status is None and is_absent):
        return DataError(f"{name} does not exist; look at the address")
    is_wrong = type(error) in (ValueError, NotImplementedError)  # such as a pattern
    if is_wrong or (status is not None and 400 <= status < 500 and status not in _BUSY):
        return SourceUnavailable(f"cannot read {name}: {_in_a_line(error)}")
    return None


def _statuses(error: BaseException | None) -> Iterator[int]:
    """Statuses of HTTP of an error and of what it came from."""
    while error is not None:
        response = getattr(error, "response", None)
        for holder, field in ((error, "status"), (response, "status_code")):
            if isinstance(status := getattr(holder, field, None), int):
                yield status
        error = error.__cause__


def _in_a_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return public(" ".join(f"{type(error).__name__}: {error}".split()))


def public(text: str) -> str:
    """A text without what may be secret in its addresses: passwords and queries."""
    return _PASSWORD.sub(r"\1", _QUERY.sub(r"\1", text))
