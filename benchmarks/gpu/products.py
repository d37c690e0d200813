"""The twelve matrix products of an encoder layer by shape, in bf16 and fp8: what a step can reach.

    python benchmarks/gpu/products.py [--smoke]

Each of the four linear layers has three products: forward x W^T, the input's gradient y W and the
weight's gradient y^T x, for 65,536 tokens. A row has m, n and k: [m, k] times [k, n]. fp8 runs as
in ds_bert/fp8/products.py: both operands with the summed dimension contiguous, gradients as E5M2,
without fast accumulation. Beside them one product of 8,192 and a large copy.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import torch
from suite import Report, copy_speed, start
from torch import Tensor

BARS = {"title": "Products of a layer", "value": "tflops_per_second", "unit": "TFLOP/s"}
HIDDEN = {"BERT-large": 1024, "BERT-base": 768}
TOKENS, SQUARE = 1 << 16, 8192
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LEAST_CAPABILITY = (8, 9)  # of fp8
TOLERANCES = {"bfloat16": 1e-2, "float8": 0.1}
CHECKED = 16  # rows of a product


class Product(NamedTuple):
    """[m, k] times [k, n]."""

    name: str
    m: int
    n: int
    k: int
    is_gradient: bool


def products(size: int, tokens: int) -> list[Product]:
    """Of a layer of this hidden size, in the order of the forward pass."""
    found = []
    for name, inputs, outputs in (
        ("query, key, value", size, 3 * size),
        ("attention output", size, size),
        ("intermediate", size, 4 * size),
        ("output", 4 * size, size),
    ):
        found += [
            Product(f"{name} forward", tokens, outputs, inputs, False),
            Product(f"{name} dx", tokens, inputs, outputs, True),
            Product(f"{name} dW", outputs, inputs, tokens, True),
        ]
    return found


def bf16_product(product: Product, left: Tensor, right: Tensor) -> Callable[[], Tensor]:
    """With the layout that autograd would give it: dx needs no transposed operand, dW the left."""
    if product.name.endswith("forward"):
        right = right.T.contiguous().T
    elif product.name.endswith("dW"):
        left = left.T.contiguous().T
    output = left.new_empty(product.m, product.n)
    return lambda: torch.mm(left, right, out=output)


def fp8_product(product: Product, left: Tensor, right: Tensor) -> Callable[[], Tensor]:
    """Without the casts: those are element-wise work."""
    one = torch.ones((), device=left.device)
    left = left.to(E5M2 if product.is_gradient else E4M3)
    right = right.to(E4M3).T.contiguous().T
    fast = not product.is_gradient
    return lambda: torch._scaled_mm(
        left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=fast
    )


MAKERS = {"bfloat16": bf16_product, "float8": fp8_product}


def measure(report: Report, case: str, product: Product, dtype: str) -> None:
    """Compare some rows of one product with float64, then time it."""
    _, m, n, k, _ = product
    left, right = (
        torch.randn(shape, device=report.device).bfloat16() for shape in ((m, k), (k, n))
    )
    exact = left[:CHECKED].double() @ right.double()
    function = MAKERS[dtype](product, left, right)
    error = float((function()[:CHECKED].double() - exact).norm() / exact.norm())
    impl = f"{product.name}, {m} x {n} x {k}, {'bf16' if dtype == 'bfloat16' else 'fp8'}"
    if not error < TOLERANCES[dtype]:
        raise ArithmeticError(f"{impl}: relative error {error:.1e}, expected {TOLERANCES[dtype]}")
    facts: dict[str, Any] = {"m": m, "n": n, "k": k, "dtype": dtype, "product": product.name}
    facts |= {"relative_error": error, "passed": True}
    report.time(case, impl, function, flops=2 * m * n * k, **facts)


def fp8_problem(device: torch.device) -> str | None:
    """Why there are no fp8 products there; a CPU emulates them."""
    if device.type == "cuda" and torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        return "found a GPU without fp8, expected Ada, Hopper or newer"
    return None


def main() -> int:
    report = start("gpu_products", __doc__ or "", BARS)
    tokens, square = (64, 64) if report.smoke else (TOKENS, SQUARE)
    sizes = {"tiny": 32} if report.smoke else HIDDEN
    speed = copy_speed(report.device)
    report.add(f"a copy: {speed / 1e12:.3f} TB/s", case="copy", bytes_per_second=speed)
    whole = Product("square", square, square, square, False)
    report.attempt("square", measure, report, "square", whole, "bfloat16")
    problem = fp8_problem(report.device)
    for dtype in MAKERS:  # all of bf16 first
        for case, size in sizes.items():
            if dtype == "float8" and problem:
                report.skip(case, dtype, problem)
                continue
            for product in products(size, tokens):
                report.attempt(product.name, measure, report, case, product, dtype)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
