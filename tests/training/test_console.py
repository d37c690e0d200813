"""What a run shows: the whole of it, in a file and on a terminal of 60 columns."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest
from console_lines import kinds
from training_util import make_data, write_recipe

# Twice in one process, which is faster by far; a process group cannot be left and joined again.
PROGRAM = """
import os, sys
from ds_bert import distributed
from ds_bert.commands.train import main

distributed.shutdown = lambda: None
sys.stdout.reconfigure(line_buffering=True)  # as on a terminal
recipe, folder, *places = sys.argv[1:]
for number, place in enumerate(places):
    to = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY)
    os.dup2(to, 1)
    os.dup2(to, 2)
    assert main(["--ds_config", recipe, "--output_dir", f"{folder}/{number}"]) == 0
"""
RUN = ["plan", "training", "validation", "training", "validation", "saved"]


class Terminal:
    """A terminal, and all that is written on it.

    Attributes:
        name: of its device.
        text: what was written, carriage returns and all.
    """

    def __init__(self, columns):
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.name, self._parts = os.ttyname(self._theirs), []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        try:
            while part := os.read(self._ours, 65536):
                self._parts.append(part)
        except OSError:  # how the end of a terminal shows
            pass

    def close(self):
        os.close(self._theirs)
        self._reader.join(10)
        os.close(self._ours)
        return b"".join(self._parts).decode()


@pytest.fixture(scope="module")
def shown(tmp_path_factory, golden):
    """What a run of 4 steps writes into a file, and on a terminal."""
    folder = tmp_path_factory.mktemp("console")
    data = make_data(folder / "data", golden)
    section = {"eval_interval": 2, "validation_data": str(data)}
    recipe = write_recipe(folder, data, section=section)
    terminal = Terminal(60)
    # As a user has them: none of the variables with which tests keep packages quiet.
    known = ("PATH", "HOME", "NUMBA_CACHE_DIR", "OMP_NUM_THREADS", "HF_HUB_OFFLINE")
    environment = {name: os.environ[name] for name in known if name in os.environ}
    command = [sys.executable, "-c", PROGRAM, recipe, folder, folder / "out", terminal.name]
    done = subprocess.run(command, env=environment | {"TERM": "xterm"}, capture_output=True)
    text = terminal.close()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), text
    return (folder / "out").read_text(), text


def test_a_file_gets_plain_lines(shown):
    text = shown[0]
    assert not re.search(r"[\r\x1b\x08]", text), "neither colours nor bars"
    assert kinds(text) == RUN
    plan = text[: text.index("step 2/4")]
    for part in (
        "model: .+, 71,006 parameters",
        "train data: .+ instances of up to 32 tokens",
        "batch: train_batch_size 8 = micro-batch 2 x accumulation 4 x ranks 1",
        "steps: 4 = 32 sequences = .+ epochs, about [1-9][0-9,]+ tokens",
        "trackers: (tensorboard|none)",
    ):
        assert re.search(part, plan), part


def test_a_terminal_gets_the_same_lines_and_a_live_one(shown):
    file, text = shown
    assert "\x1b[3" not in text, "no colours"
    pieces = [piece for piece in re.split(r"[\r\n]+", text) if piece.strip()]
    bars = [piece for piece in pieces if piece.startswith("training: ")]
    lines = [piece for piece in pieces if not piece.startswith("training: ")]
    assert kinds("\n".join(lines)) == kinds(file) == RUN
    assert all(len(bar) <= 60 for bar in bars)
    assert any(re.fullmatch(r"training:  50% \|.*\|.* left, loss \d\.\d{4}.*", b) for b in bars)
    assert bars[-1].startswith("training: 100%")
