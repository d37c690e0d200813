"""LAMB on the flat partition of a real BERT: correctness against float64, then speed.

    python benchmarks/gpu/lamb.py [--smoke]

Errors are relative norms, in brackets those of the plain-torch twin in fp32; that of the parameters
is relative to the whole update. The bound of the speed is the bytes that the kernels read and
write divided by the bandwidth of a large copy in the same run.
"""

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import torch
from ds_bert_kernels import lamb
from ds_bert_kernels.reference import lamb as reference
from ds_bert_kernels.reference.lamb import Segment
from suite import Report, copy_speed, start
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

BARS = {"title": "One optimizer step, all parameters on one GPU", "value": "ms", "unit": "ms"}
STEPS = 3
TOLERANCE = 2e-6
# Bytes per parameter as written in kernels/lamb.py, where all but the gradient is fp32. The tables
# of pieces, about 40 bytes for 4,096 parameters, are left out.
MOMENTS_BYTES = 5 * 4  # reads p, m, v, writes m, v; the gradient comes on top
APPLY_BYTES = 4 * 4  # reads p, m, v, writes p

LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16,
}  # fmt: skip
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 100, "max_position_embeddings": 16,
}  # fmt: skip


class State(NamedTuple):
    """What LAMB keeps of a flat partition."""

    parameter: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    def copy(self, dtype=torch.float32) -> "State":
        return State(*(tensor.to(dtype, copy=True) for tensor in self))


class Partition(NamedTuple):
    """All parameters of a model in a row, those with weight decay first, as in training."""

    shapes: list[torch.Size]
    segments: tuple[Segment, ...]
    size: int


def partition_of(config: BertConfig) -> Partition:
    with torch.device("meta"):
        model = BertForPreTraining(config)
    # Biases and LayerNorm tensors are BERT's only vectors.
    shapes = sorted((p.shape for p in model.parameters()), key=lambda shape: len(shape) == 1)
    segments, position = [], 0
    for index, shape in enumerate(shapes):
        decay = 0.0 if len(shape) == 1 else 0.01
        segments.append(Segment(position, shape.numel(), index, decay))
        position += shape.numel()
    return Partition(shapes, tuple(segments), position)


def make_state(partition: Partition, device: torch.device) -> State:
    """Random weights; zeros in all vectors, whose trust ratio is then 1."""
    parameter = torch.randn(partition.size, device=device) * 0.02
    parameter[next(s.start for s in partition.segments if not s.weight_decay) :] = 0
    return State(parameter, torch.zeros_like(parameter), torch.zeros_like(parameter))


def moments(module, state, gradient, partition: Partition, step: int, scale=None) -> Tensor:
    return module.lamb_moments(
        *(state.parameter, gradient, state.exp_avg, state.exp_avg_sq),
        partition.segments, len(partition.shapes), betas=(0.9, 0.999), eps=1e-6,
        bias_corrections=(1 - 0.9**step, 1 - 0.999**step),
        gradient_scale=scale,
    )  # fmt: skip


def apply(module, state: State, norms: Tensor, partition: Partition, step: int) -> None:
    module.lamb_apply(
        *state, partition.segments, norms, lr=1e-3, eps=1e-6,
        bias_corrections=(1 - 0.9**step, 1 - 0.999**step), max_trust_ratio=10.0,
    )  # fmt: skip


def run(module, state: State, gradients: list[Tensor], partition: Partition, scale=None) -> Tensor:
    """One step for each gradient, in place; the norms of the last one."""
    for step, gradient in enumerate(gradients, 1):
        norms = moments(module, state, gradient, partition, step, scale)
        apply(module, state, norms, partition, step)
    return norms


def errors(found: State, norms: Tensor, exact: State, exact_norms: Tensor, begin: Tensor) -> dict:
    whole = (exact.parameter - begin, exact.exp_avg, exact.exp_avg_sq, exact_norms.sqrt())
    names = (*State._fields, "norms")
    return {
        name: float((one - other).norm() / size.norm())
        for name, one, other, size in zip(
            names, (*found, norms.sqrt()), (*exact, exact_norms.sqrt()), whole, strict=True
        )
    }


def check(report: Report, name: str, partition: Partition, dtype) -> None:
    begin = make_state(partition, report.device)
    gradients = [
        (torch.randn(partition.size, device=report.device) * step).to(dtype)
        for step in range(1, STEPS + 1)
    ]
    states = {name: begin.copy() for name in ("ours", "again", "plain")}
    states["exact"] = begin.copy(torch.float64)
    modules = {"ours": lamb, "again": lamb, "plain": reference, "exact": reference}
    scale = torch.full((), 0.5, device=report.device)
    results = {
        key: (state, run(modules[key], state, gradients, partition, scale))
        for key, state in states.items()
    }
    report.check(
        f"{name}, {str(dtype)[6:]} gradient",
        *(errors(*results[key], *results["exact"], begin.parameter) for key in ("ours", "plain")),
        TOLERANCE,
        same_bits=all(map(torch.equal, states["ours"], states["again"])),
    )


def bandwidth(report: Report) -> float:
    """Bytes per ms, read and written, of a large copy."""
    speed = copy_speed(report.device)
    line = f"bandwidth of a copy {speed / 1e12:.3f} TB/s"
    report.add(line, case="a large copy", bytes_per_second=speed)
    return speed / 1e3


def measure(report: Report, name: str, partition: Partition, bytes_per_ms: float) -> None:
    state = make_state(partition, report.device)
    case = f"{name}, {partition.size / 1e6:.0f} M"
    fp32 = torch.randn(partition.size, device=report.device)
    for gradient, suffix in ((fp32, ""), (fp32.bfloat16(), ", bf16 gradient")):
        norms = moments(lamb, state, gradient, partition, 1)
        first, second = MOMENTS_BYTES + gradient.element_size(), APPLY_BYTES
        parts = [
            ("ours", partial(run, lamb, state, [gradient], partition), first + second),
            ("ours, pass 1", partial(moments, lamb, state, gradient, partition, 1), first),
            ("ours, pass 2", partial(apply, lamb, state, norms, partition, 1), second),
            ("plain torch", partial(run, reference, state, [gradient], partition), first + second),
        ]
        for impl, function, size in parts:
            bound = size * partition.size / bytes_per_ms
            report.time(case, impl + suffix, function, bound, bytes_per_parameter=size)


def measure_library(report: Report, name: str, partition: Partition, option: str) -> None:
    """torch.optim.AdamW over the same tensors, each for itself."""
    parameters = [torch.randn(shape, device=report.device) * 0.02 for shape in partition.shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, **{option: True})
    case = f"{name}, {partition.size / 1e6:.0f} M"
    report.time(case, f"torch AdamW, {option}", optimizer.step)


def main() -> int:
    report = start("gpu_lamb", __doc__ or "", BARS)
    sizes = {"tiny": TINY} if report.smoke else {"BERT-base": {}, "BERT-large": LARGE}
    partitions = {name: partition_of(BertConfig(**size)) for name, size in sizes.items()}
    for name, partition in partitions.items():
        for dtype in (torch.float32, torch.float16 if report.smoke else torch.bfloat16):
            report.attempt(f"correctness of {name}", check, report, name, partition, dtype)
    bytes_per_ms = bandwidth(report)
    for name, partition in partitions.items():
        report.attempt(f"speed of {name}", measure, report, name, partition, bytes_per_ms)
        for option in ("foreach", "fused"):
            measure_library(report, name, partition, option)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
