"""GPUs as people name them, such as 8xH100: how many, how fast, how much memory."""

import re
from typing import NamedTuple

from ds_bert.costs.hours import Speed
from ds_bert.errors import ConfigurationError, suggest
from ds_bert.model.flops import PEAK_TFLOPS

# torch's name, which has the peak, and bytes of memory: NVIDIA's data sheets.
KNOWN = {
    "A100": ("NVIDIA A100-SXM4-80GB", 80e9),
    "A100-40GB": ("NVIDIA A100-SXM4-40GB", 40e9),
    "A100-PCIE": ("NVIDIA A100 80GB PCIe", 80e9),
    "A10": ("NVIDIA A10", 24e9),
    "A30": ("NVIDIA A30", 24e9),
    "A40": ("NVIDIA A40", 48e9),
    "A6000": ("NVIDIA RTX A6000", 48e9),
    "L4": ("NVIDIA L4", 24e9),
    "L40S": ("NVIDIA L40S", 48e9),
    "RTX3090": ("NVIDIA GeForce RTX 3090", 24e9),
    "RTX4090": ("NVIDIA GeForce RTX 4090", 24e9),
    "H100": ("NVIDIA H100 80GB HBM3", 80e9),
    "H100-PCIE": ("NVIDIA H100 PCIe", 80e9),
    "H200": ("NVIDIA H200", 141e9),
    "B200": ("NVIDIA B200", 180e9),
    "GB200": ("NVIDIA GB200", 186e9),
}
# NVIDIA reports 580 sequences/s of 128 for BERT-large on an A100: 45 % of its peak.
# Source: DeepLearningExamples, PyTorch/LanguageModeling/BERT, README. Nothing of ours is measured.
ASSUMED_MFU = 0.4


class GPUs(NamedTuple):
    """Some GPUs of one kind.

    Attributes:
        kind: as in `KNOWN`.
        number: of them.
        peak: operations per second of one, in bf16 by the data sheet.
        memory: bytes of one.
    """

    kind: str
    number: int
    peak: float
    memory: float

    def __str__(self) -> str:
        return f"{self.number} x {self.kind}"


def named(text: str) -> GPUs:
    """The GPUs that a text such as "8xH100" or "A100" names.

    Raises:
        ConfigurationError: not such a text, or a GPU that is not known.
    """
    found = re.fullmatch(r"(?:(\d+) *[xX*] *)?([\w-]+)", text.strip())
    number, kind = (int(found[1] or 1), found[2].upper()) if found else (0, text)
    if number < 1 or kind not in KNOWN:
        raise ConfigurationError(
            f"--on: found {text!r}, expected a number and a GPU such as 8xH100; "
            f"{suggest(kind, KNOWN)}"
        )
    name, memory = KNOWN[kind]
    return GPUs(kind, number, PEAK_TFLOPS[name] * 1e12, memory)


def assumed_speed(gpus: GPUs, mfu: float | None) -> Speed:
    """Of GPUs that are not here."""
    share = ASSUMED_MFU if mfu is None else mfu
    source = f"of {gpus} at {share:.0%} of their bf16 peak of {gpus.peak / 1e12:,.0f} TFLOP/s"
    source += " (assumed: --mfu)" if mfu is None else " (--mfu)"
    return Speed(gpus.number * gpus.peak * share, f"{source}, not measured")
