"""Whether the GPU is healthy: its memory, the bandwidth of a copy, one large product.

    python benchmarks/gpu/check.py [--smoke]

Fails where the product is wrong or runs at less than a third of the data sheet's peak. It prints
only; products.py measures both again and keeps them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import torch
from suite import copy_speed, start
from timing import median_time

from ds_bert.model.flops import peak_flops

SIZES = {False: 8192, True: 64}  # by whether it is a smoke test
LEAST = 1 / 3


def largest_error(left: torch.Tensor, right: torch.Tensor, found: torch.Tensor) -> float:
    """Relative to float64, of a few rows."""
    exact = left[:8].double() @ right.double()
    return float((found[:8].double() - exact).norm() / exact.norm())


def main() -> int:
    report = start("gpu_check", __doc__ or "", {})
    device, size = report.device, SIZES[report.smoke]
    if device.type == "cuda":
        free, total = (count / 1e9 for count in torch.cuda.mem_get_info())
        name = torch.cuda.get_device_name()
        print(f"{name}, {free:.1f} of {total:.1f} GB free, CUDA {torch.version.cuda}", flush=True)
    print(f"torch {torch.__version__}: copies {copy_speed(device) / 1e12:.3f} TB/s", flush=True)
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    milliseconds = median_time(lambda: left @ right, device).median
    speed, peak = 2 * size**3 / milliseconds * 1e3, peak_flops(device)
    error = largest_error(left, right, left @ right)
    print(f"product of {size}: {speed / 1e12:.1f} TFLOP/s, relative error {error:.1e}", flush=True)
    return 0 if error < 1e-2 and speed > LEAST * (peak or 0) else 1


if __name__ == "__main__":
    sys.exit(main())
