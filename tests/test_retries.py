"""Which errors are tried again, and what is said about those that are not."""

import errno

import pytest

from ds_bert import retries
from ds_bert.errors import DataError, SourceUnavailable


class NoCredentialsError(Exception):
    """As botocore calls it."""


class Answer(Exception):
    """An error with a status, as of aiohttp."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


class HubError(Exception):
    """An error with a response, as of huggingface_hub."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.response = type("Response", (), {"status_code": status})


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    made = []
    monkeypatch.setattr(retries.time, "sleep", made.append)
    return made


def fails_with(error, name="s3://bucket/a"):
    """The error that comes of it, and how often it was tried."""
    calls = []

    def attempt():
        calls.append(1)
        raise error

    with pytest.raises(DataError) as caught:
        retries.retried(name, attempt)
    return caught.value, len(calls)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBUSY, "slow down"),
        TimeoutError("silence"),
        EOFError("cut"),
        Answer(503),
        Answer(429),
        HubError(500),
        RuntimeError("anything"),
    ],
)
def test_what_may_pass_is_tried_again(error, pauses):
    found, number = fails_with(error)
    assert isinstance(found, SourceUnavailable) and number == 5
    assert pauses == [1, 2, 4, 8]
    assert str(error) in str(found) and "(5 attempts)" in str(found)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (FileNotFoundError("bucket/a"), DataError, "does not exist"),
        (caused(FileNotFoundError("a"), ValueError("NoSuchKey")), DataError, "does not exist"),
        (Answer(404), DataError, "does not exist"),
        (HubError(401), SourceUnavailable, "access to .* is denied"),
        (PermissionError("Access Denied"), SourceUnavailable, "access to .* is denied"),
        (NoCredentialsError("none found"), SourceUnavailable, "is denied .*credentials"),
        (Answer(416), SourceUnavailable, "cannot read"),
        (ValueError("no such pattern"), SourceUnavailable, "no such pattern"),
        (DataError("is a folder"), DataError, "is a folder"),
    ],
)
def test_what_stays_so_is_said_at_once(error, kind, message, pauses):
    found, number = fails_with(error)
    assert type(found) is kind and number == 1 and pauses == []
    with pytest.raises(kind, match=message):
        raise found


def test_fsspec_calls_a_server_absent_that_was_not_reached(pauses):
    lost = caused(FileNotFoundError("https://host/a"), ConnectionError("refused"))
    found, number = fails_with(lost, "https://host/a")
    assert isinstance(found, SourceUnavailable) and number == 5
    gone = caused(FileNotFoundError("https://host/a"), Answer(404))
    assert fails_with(gone, "https://host/a")[1] == 1


def test_an_attempt_that_succeeds_later(pauses):
    errors = [Answer(503), EOFError()]

    def attempt():
        if errors:
            raise errors.pop()
        return 7

    assert retries.retried("a", attempt) == 7
    assert pauses == [1, 2]


def test_secrets_are_left_out():
    text = "403, url='https://me:pw@host/a.txt?key=1&b=2' of s3://bucket/what?"
    assert retries.public(text) == "403, url='https://host/a.txt' of s3://bucket/what"
