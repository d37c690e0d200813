"""Signals while the main thread is in compiled code and sees none of them."""

import signal
import subprocess
import sys
import time

import pytest

STUCK = """
import hashlib
from ds_bert.guards import signals
signals.ONE_REQUEST = 0.5
with signals.stop_signals(lambda *_: print("asked", flush=True)):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes, in C
"""


@pytest.fixture
def stuck():
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_sigterm_ends_it(stuck):
    stuck.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    assert stuck.poll() is None
    stuck.send_signal(signal.SIGTERM)
    assert stuck.wait(10) == 128 + signal.SIGTERM


def test_the_same_signal_twice_at_once_is_one_request(stuck):
    for kind in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
        stuck.send_signal(kind)
        time.sleep(0.05)
    time.sleep(0.6)
    assert stuck.poll() is None


def test_handlers_are_called_and_put_back():
    from ds_bert.guards.signals import stop_signals

    before = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGUSR1)]
    asked = []
    with stop_signals(lambda kind, _: asked.append(kind)):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert asked == [signal.SIGUSR1, signal.SIGTERM]
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGUSR1)] == before
