"""What `setup` does to the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ds_bert import distributed

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


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("own", [None, *ALLOCATOR])
def test_gpu_memory_grows_in_place_unless_the_user_has_settings(monkeypatch, device, own):
    for name in ALLOCATOR:
        monkeypatch.setenv(name, "")  # so that it is as before after the test
        monkeypatch.delenv(name)
    if own is not None:
        monkeypatch.setenv(own, "max_split_size_mb:64")
    monkeypatch.setattr(distributed, "local_device", lambda: torch.device(device))
    monkeypatch.setattr(distributed, "_init_deepspeed", lambda *_: None)
    seen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: seen.append(settings()))
    distributed.setup()
    default = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"} if device == "cuda" else {}
    expected = default if own is None else {own: "max_split_size_mb:64"}
    assert settings() == expected
    assert seen == ([expected] if device == "cuda" else []), "before the device is touched"


def settings() -> dict[str, str]:
    return {name: os.environ[name] for name in ALLOCATOR if name in os.environ}


SEGMENTS = """
from ds_bert import distributed
device = distributed.setup()
import torch
torch.zeros(1, device=device)
print(torch.cuda.memory._snapshot()["allocator_settings"]["expandable_segments"])
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torch_takes_the_setting_over():
    """torch 2.9 ignored it under this name (pytorch issue 183387)."""
    environment = {name: text for name, text in os.environ.items() if name not in ALLOCATOR}
    command = [sys.executable, "-c", SEGMENTS]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == "True"
