"""The masked-LM head (decoder and loss): correctness against float64, then speed and memory.

    python benchmarks/gpu/head.py [--smoke]

Errors are relative norms, in brackets those of plain torch in the same dtype. Speed is forward and
backward over N masked positions. The bound is the head's three matrix products alone, at the
padded vocabulary, which suits the library best.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import torch
import torch.nn.functional as F
from ds_bert_kernels.masked_lm_head import masked_lm_loss
from ds_bert_kernels.reference import masked_lm_head as reference
from suite import Report, start
from torch import Tensor

BARS = {"title": "Masked-LM head, forward and backward", "value": "ms", "unit": "ms"}
# fp32 and fp16 as in tests/kernels/test_masked_lm_head.py; bf16 has three bits less than fp16.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 3e-4, torch.bfloat16: 2.4e-3}
NAMES = ("hidden", "weight", "bias")
ROWS = {False: 128, True: 16}  # over all draws, at least; by whether it is a smoke test


def make_inputs(positions, hidden_size, vocab_size, dtype, device) -> tuple[list[Tensor], Tensor]:
    """Tensors whose logits spread as a trained model's, and labels of which half are the best.

    The weight lies in a larger buffer, as DeepSpeed's do.
    """
    hidden = torch.randn(positions, hidden_size, device=device)
    buffer = torch.randn(vocab_size + 128, hidden_size, device=device) * 2.5 * hidden_size**-0.5
    bias = torch.randn(vocab_size, device=device) * 0.1
    tensors = [hidden.to(dtype), buffer.to(dtype)[:vocab_size], bias.to(dtype)]
    labels = torch.randint(vocab_size, (positions,), device=device)
    hidden, weight, bias = (tensor.double() for tensor in tensors)
    labels[::2] = (hidden[::2] @ weight.T + bias).argmax(-1)
    return tensors, labels


def run(function, tensors, labels):
    """Loss, count and gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    loss, correct = function(*leaves, labels)
    return [loss.detach(), *torch.autograd.grad(loss * 1.5, leaves)], int(correct)


def float64(hidden, weight, bias, labels):
    logits = F.linear(hidden, weight, bias)
    loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    return loss, (logits.argmax(-1) == labels).sum()


class Errors:
    """Relative norms of error over several draws, as if all rows were of one."""

    def __init__(self):
        self.squares = torch.zeros(2, 1 + len(NAMES), dtype=torch.float64)
        self.miscounts = 0

    def add(self, found: list[Tensor], exact: list[Tensor], miscount: int) -> None:
        for index, (one, other) in enumerate(zip(found, exact, strict=True)):
            self.squares[0, index] += (one.double() - other).square().sum().cpu()
            self.squares[1, index] += other.square().sum().cpu()
        self.miscounts += abs(miscount)

    def relative(self) -> dict[str, float]:
        norms = (self.squares[0] / self.squares[1]).sqrt().tolist()
        return dict(zip(("loss", *(f"d{name}" for name in NAMES)), norms, strict=True))


def check(report: Report, positions: int, hidden_size: int, vocab_size: int, dtype) -> None:
    """Both paths against float64; few rows are drawn often, for one row's error is luck."""
    sizes = (positions, hidden_size, vocab_size, dtype, report.device)
    paths = {
        name: partial(masked_lm_loss, max_logits_bytes=limit)
        for name, limit in path_limits(positions, vocab_size, dtype).items()
    }
    measured = {name: Errors() for name in ("torch", *paths)}
    same_bits = True
    for _ in range(-(-ROWS[report.smoke] // positions)):
        tensors, labels = make_inputs(*sizes)
        labels[1::4] = -100
        exact, exact_count = run(float64, [tensor.double() for tensor in tensors], labels)
        for name, function in {"torch": reference.masked_lm_loss, **paths}.items():
            result, count = run(function, tensors, labels)
            measured[name].add(result, exact, count - exact_count)
            assert all(gradient.dtype == dtype for gradient in result[1:])
            if name in paths:
                again, _ = run(function, tensors, labels)
                same_bits &= all(map(torch.equal, result, again))
    # Rounded logits may swap the two best of a row, here as in plain torch.
    slack = 0 if dtype == torch.float32 else 1 + max(positions, ROWS[report.smoke]) // 50
    for name in paths:
        report.check(
            f"{str(dtype)[6:]} N {positions} H {hidden_size} {name}",
            measured[name].relative(), measured["torch"].relative(), TOLERANCES[dtype],
            count=measured[name].miscounts <= measured["torch"].miscounts + slack,
            same_bits=same_bits,
        )  # fmt: skip


def path_limits(positions: int, vocab_size: int, dtype) -> dict[str, int]:
    """max_logits_bytes of each path: all logits at once, and about four chunks of rows."""
    row_bytes = (vocab_size + 128) * dtype.itemsize
    limits = {"single": positions * row_bytes, "chunks": -(-positions // 4) * row_bytes}
    return limits if positions > 1 else {"single": row_bytes}


def check_all_ignored(report: Report, hidden_size: int, vocab_size: int, dtype) -> None:
    tensors, labels = make_inputs(37, hidden_size, vocab_size, dtype, report.device)
    found, count = run(masked_lm_loss, tensors, labels.fill_(-100))
    report.check(
        f"{str(dtype)[6:]} N 37 H {hidden_size} all ignored", {}, {}, 0.0,
        zero=count == 0 and not any(bool(tensor.any()) for tensor in found),
    )  # fmt: skip


def three_products(tensors: list[Tensor], vocab_size: int):
    """The bound: logits, gradient of hidden, gradient of weight, into memory that is there."""
    hidden, weight, _ = tensors
    weight = F.pad(weight, (0, 0, 0, -vocab_size % 128))
    logits = hidden @ weight.T
    outputs = [torch.empty_like(tensor) for tensor in (logits, hidden, weight)]

    def products():
        torch.mm(hidden, weight.T, out=outputs[0])
        torch.mm(logits, weight, out=outputs[1])
        torch.mm(logits.T, hidden, out=outputs[2])

    return products


def library_loss(hidden, weight, bias, labels):
    options = torch.nn.LinearCrossEntropyOptions()
    function = F.linear_cross_entropy
    loss = function(hidden, weight, labels, linear_bias=bias, reduction="sum", options=options)
    return loss, None


def measure(report: Report, positions: int, hidden_size: int, vocab_size: int, dtype) -> None:
    case = f"N {positions}, H {hidden_size}"
    tensors, labels = make_inputs(positions, hidden_size, vocab_size, dtype, report.device)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    functions = {
        name: partial(masked_lm_loss, max_logits_bytes=limit)
        for name, limit in zip(
            ("ours", "ours, 4 chunks"),
            path_limits(positions, vocab_size, dtype).values(),
            strict=True,
        )
    }
    functions["plain torch"] = reference.masked_lm_loss
    with torch.no_grad():
        bound = report.time(case, "3 matrix products", three_products(tensors, vocab_size))
    if hasattr(F, "linear_cross_entropy"):
        functions["linear_cross_entropy"] = library_loss
    else:
        reason = f"found torch {torch.__version__}, expected 2.13 or newer"
        report.skip(case, "linear_cross_entropy", reason)
    for name, function in functions.items():
        step = partial(forward_backward, function, leaves, labels)
        report.time(case, name, step, bound.median if bound else None)


def forward_backward(function, leaves, labels) -> None:
    torch.autograd.grad(function(*leaves, labels)[0], leaves)


def main() -> int:
    report = start("gpu_head", __doc__ or "", BARS)
    if report.smoke:
        counts, hidden_sizes, vocab_size = (1, 8), (32,), 300
        dtypes = [torch.float32, torch.float16]  # the interpreter computes bf16 wrongly
        speed_counts, speed_dtype = (16,), torch.float32
    else:
        counts, hidden_sizes, vocab_size = (1, 37, 4096), (768, 1024), 30522
        dtypes = list(TOLERANCES)
        speed_counts, speed_dtype = (4915, 9830), torch.bfloat16
    for dtype in dtypes:
        for size in hidden_sizes:
            for positions in counts:
                report.attempt("correctness", check, report, positions, size, vocab_size, dtype)
            report.attempt("all ignored", check_all_ignored, report, size, vocab_size, dtype)
    for size in hidden_sizes:
        for positions in speed_counts:
            report.attempt("speed", measure, report, positions, size, vocab_size, speed_dtype)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
