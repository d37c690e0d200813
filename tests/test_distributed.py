"""What `setup` does to the process."""

import subprocess
import sys
from pathlib import Path

import pytest

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
REPEAT = """
from resource import RUSAGE_SELF, getrusage
from ds_bert import distributed
assert distributed.setup().type == "cpu"
import torch
x = torch.zeros(1 << 24, dtype=torch.bfloat16)
before = getrusage(RUSAGE_SELF).ru_minflt
for _ in range(8):
    x.float()
print("faults", getrusage(RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="needs huge pages"
)
def test_freed_memory_is_used_again():
    """Eight times 64 MB, which are 16,384 pages of 4 KB."""
    command = [sys.executable, "-c", REPEAT]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(output.split("faults")[-1]) < 8192
