"""The parts of the suite, the most important first, and how the time is shared between them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from needs import COMPILER, CUDA, with_needs

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 570  # seconds for everything
LEAST = 10  # seconds under which no part is started
GPU_TEST = re.compile(r"mark\.gpu|NEEDS_GPU")  # only such files: others need more packages

_KERNELS = with_needs("numpy", "torch", "triton", "transformers")
_MODEL = (*_KERNELS, *with_needs("numba"))
_TRAINING = (*_MODEL, *with_needs("deepspeed", "psutil", "safetensors", "tqdm", "xxhash"))


class Part(NamedTuple):
    """One process of the suite.

    Attributes:
        name: `benchmarks/gpu/NAME.py`, but for "tests".
        seconds: that it is expected to take, and that those before it leave for it.
        limit: seconds after which it is killed, whatever is left.
        needs: packages of `needs.PACKAGES`, and `CUDA` and `COMPILER`.
        what: it does, in words.
        lost: what is not known if it fails.
    """

    name: str
    seconds: int
    limit: int
    needs: tuple[str, ...]
    what: str
    lost: str

    def command(self, python: str, is_check: bool) -> list[str]:
        """Its command line."""
        if self.name == "tests":
            files = sorted((ROOT / "tests").glob("*/test_*.py"))
            gpu_tests = [str(path) for path in files if GPU_TEST.search(path.read_text())]
            # -P keeps the folder kernels from being found as the package kernels.
            options = ["-q", "-m", "gpu", "-p", "no:cacheprovider"]
            return [python, "-P", "-m", "pytest", *options, *gpu_tests]
        script = str(ROOT / f"benchmarks/gpu/{self.name}.py")
        return [python, script, *["--smoke"] * is_check]


_GPU = (CUDA, COMPILER)
PARTS = (
    Part("check", 15, 40, ("numpy", "torch", "transformers", CUDA),
         "memory, bandwidth of a copy, one large product",
         "whether the figures below are those of a healthy GPU"),
    Part("tests", 45, 100, (*_MODEL, "pytest", *_GPU),
         "pytest -m gpu: attention, fp8, head, LAMB, dropout masks", "whether kernels are right"),
    Part("train", 80, 130, (*_TRAINING, *_GPU),
         "ds_bert/train.py: micro-batch auto, stop, resume bit for bit, fp8, the launcher",
         "whether training works at all"),
    Part("products", 30, 60, ("torch", "numpy", CUDA),
         "the layers' matrix products by shape, bf16 and fp8", "the time model's rates"),
    Part("attention", 45, 80, (*_MODEL, *_GPU), "attention against float64, dropout 0 and 0.1",
         "the time model's attention"),
    Part("steps", 240, 300, (*_MODEL, *_GPU),
         "whole steps beside Hugging Face's, cell by cell while there is time, and profiles",
         "the goals; cells measured before are kept"),
    Part("head", 25, 50, (*_KERNELS, *_GPU), "masked-LM head against float64, beside its bound",
         "the head's share"),
    Part("lamb", 25, 50, (*_KERNELS, *_GPU), "LAMB against float64, beside its bound",
         "the optimizer's share"),
    Part("encoder", 70, 100, (*_MODEL, *_GPU),
         "fused element-wise kernels; one layer: compiled, fused, fp8, beside its products",
         "what compiling, fusing and fp8 give a layer"),
)  # fmt: skip
IF_TIME_IS_LEFT = ("encoder",)  # nobody leaves time for these


def limit_of(part: Part, later: Sequence[Part], left: float) -> float:
    """Seconds that a part may take.

    Args:
        part: the next one.
        later: those after it.
        left: seconds until the end.
    """
    reserved = sum(other.seconds for other in later if other.name not in IF_TIME_IS_LEFT)
    # Where there is too little for all, the more important part has its expected time first.
    return min(part.limit, left, max(left - reserved, part.seconds))


def missing_for(part: Part, missing: dict[str, str]) -> list[str]:
    """What of a part's needs is missing."""
    return [need for need in part.needs if need in missing]


def plan(parts: Sequence[Part]) -> str:
    """The parts as a table."""
    lines = [f"{'part':10} {'expected':>8} {'at most':>8}  what; what is not known if it fails"]
    lines += [
        f"{part.name:10} {part.seconds:6} s {part.limit:6} s  {part.what}; {part.lost}"
        for part in parts
    ]
    return "\n".join(
        [
            *lines,
            f"All within {DEADLINE} s. The seconds are expected, not measured. A part that fails,",
            "cannot run or is out of time (its process group is killed, its rows so far stay) does",
            "not stop the others; the exit code is 1 in the end.",
        ]
    )
