"""One encoder layer in bf16: what compiling and fp8 give, and that they compute the same.

    python benchmarks/gpu/encoder.py [--smoke]

Errors are relative norms against the layer in float32 without dropout, in brackets those of the
layer run operation by operation in bf16 (for fp8: in fp8). Speed is forward and backward with
dropout 0.1 over 65,536 tokens; the stock layer pads, so it sees more positions where the lengths
are real. The bound is the layer's twelve matrix products alone, in bf16.
The fused element-wise kernels are checked and timed alone first: benchmarks/elementwise.py.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import torch
import torch.nn.functional as F
from suite import Report, relative_errors, require, start
from torch import Tensor, nn
from transformers import BertConfig

require("numba", "ds_bert", "ds_bert_kernels")
import elementwise
from fp8 import fp8_problem
from synthetic_data import lengths_of_batch
from torch._dynamo.utils import counters
from transformers.models.bert.modeling_bert import BertLayer

from ds_bert.fp8.layers import Fp8Layers
from ds_bert.fp8.recipe import Fp8Recipe
from ds_bert.model.attention import choose_attention, looped_attention
from ds_bert.model.elementwise import PLAIN
from ds_bert.model.encoder import Encoder, attention_length
from ds_bert.model.flops import layer_flops

BARS = {"title": "One encoder layer, 65,536 tokens", "value": "ms", "unit": "ms"}
TOLERANCES = {"compiled": 1e-3, "compiled, fused": 1e-3, "compiled fp8": 1e-2}
SIZES = {
    "BERT-large": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
    "BERT-base": {},
}
TINY = {"tiny": {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 1}}
CASES = (("real", 512), ("full", 128))
NAMES = ("output", "dhidden", "dweights")


class Problem:
    """Layers with the same weights and one batch."""

    def __init__(self, config: BertConfig, lengths: list[int], device: torch.device, dtype):
        self.config, self.lengths, self.device, self.dtype = config, lengths, device, dtype
        self.weights = BertLayer(config).state_dict()
        self.max_length = attention_length(lengths)
        size, count = config.hidden_size, sum(lengths)
        self.hidden = torch.randn(count, size, device=device).to(dtype).requires_grad_()
        self.gradient = torch.randn(count, size, device=device).to(dtype)
        self.borders = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)

    def layer(self, dtype=None, training: bool = True) -> nn.Module:
        """A layer in training draws dropout."""
        layer = BertLayer(self.config)
        layer.load_state_dict(self.weights)
        return layer.to(self.device, dtype or self.dtype).train(training)


def forward(
    encoder: Encoder,
    layer: nn.Module,
    problem: Problem,
    hidden: Tensor,
    fp8: Fp8Layers | None = None,
) -> Tensor:
    products = None if fp8 is None else fp8.of([layer])[0]
    return encoder.layer(layer, hidden, problem.borders, problem.max_length, products)


def fp8_layer(config: BertConfig, device: torch.device) -> Fp8Layers:
    """What a single layer keeps."""
    one = BertConfig.from_dict(config.to_dict() | {"num_hidden_layers": 1})
    return Fp8Layers(Fp8Recipe(), one, device)


def results(
    encoder: Encoder, layer: nn.Module, problem: Problem, fp8: bool = False
) -> list[Tensor]:
    """Output, gradient of the input, gradients of the weights in one vector."""
    hidden = problem.hidden.detach().to(next(layer.parameters()).dtype).requires_grad_()
    kept = fp8_layer(problem.config, problem.device) if fp8 else None
    output = forward(encoder, layer, problem, hidden, kept)
    leaves = [hidden, *layer.parameters()]
    gradients = torch.autograd.grad(output, leaves, problem.gradient.to(output.dtype))
    return [output.detach(), gradients[0], torch.cat([part.flatten() for part in gradients[1:]])]


def attention_of(report: Report, config: BertConfig, dtype):
    heads = config.num_attention_heads
    attention, refused = choose_attention(report.device, dtype, heads, config.hidden_size // heads)
    for line in refused:
        report.add(f"       {line}", case="attention", impl=attention.__name__, refused=line)
    return attention


def check(report: Report, name: str, config: BertConfig, attention, lengths: list[int]) -> None:
    """Compiled against plain, and one graph for several layers and numbers of tokens."""
    problem = Problem(config, lengths, report.device, torch.bfloat16)
    build = partial(problem.layer, training=False)
    exact = results(Encoder(looped_attention), build(torch.float32), problem)
    errors = partial(relative_errors, NAMES, exact=exact)
    for impl in TOLERANCES:
        fp8 = impl == "compiled fp8"
        if reason := fp8 and fp8_problem(config, report.device):
            report.skip(name, impl, reason)
            continue
        fused = elementwise.fused(config, report.smoke) if "fused" in impl else PLAIN
        plain = errors(results(Encoder(attention, F.linear), build(), problem, fp8))
        encoder = Encoder(attention, F.linear, compiled=True, elementwise=fused)
        torch._dynamo.reset()  # or the graph before attention would be found made
        before = counters["stats"]["unique_graphs"]
        found = errors(results(encoder, build(), problem, fp8))
        graphs = counters["stats"]["unique_graphs"] - before
        for share in (1, 3):
            part = lengths[: len(lengths) * share // 4 + 1]
            other = Problem(config, part, report.device, torch.bfloat16)
            results(encoder, other.layer(training=False), other, fp8)
        # In plain torch, attention is a loop over sequences, which splits the graph in two.
        expected = 2 if attention is looped_attention else 1
        total = counters["stats"]["unique_graphs"] - before
        one_graph = graphs == total == expected
        report.check(f"{name} {impl}", found, plain, TOLERANCES[impl], one_graph=one_graph)


def products(problem: Problem):
    """The bound: forward, input's and weight's gradient of the four linear layers."""
    size, inner = problem.config.hidden_size, problem.config.intermediate_size
    make = partial(torch.empty, device=problem.device, dtype=problem.dtype)
    count = sum(problem.lengths)
    works = []
    for inputs, outputs in ((size, 3 * size), (size, size), (size, inner), (inner, size)):
        x, weight, y = make(count, inputs), make(outputs, inputs), make(count, outputs)
        for tensor in (x, weight, y):
            tensor.normal_()  # zeros would run faster
        works += [(x, weight.T, y.clone()), (y, weight, x.clone()), (y.T, x, weight.clone())]

    def run():
        for left, right, output in works:
            torch.mm(left, right, out=output)

    return run


def stock_step(problem: Problem):
    """Hugging Face's layer in eager mode on padded sequences."""
    problem.config._attn_implementation = "eager"
    layer, longest = problem.layer(), max(problem.lengths)
    shape = (len(problem.lengths), longest)
    real = torch.arange(longest) < torch.tensor(problem.lengths)[:, None]
    mask = torch.zeros(shape, dtype=problem.dtype).masked_fill(~real, float("-inf"))
    mask = mask[:, None, None].to(problem.device)
    hidden, gradient = (
        torch.randn(*shape, problem.config.hidden_size, device=problem.device).to(problem.dtype)
        for _ in range(2)
    )
    leaves = [hidden.requires_grad_(), *layer.parameters()]
    return lambda: torch.autograd.grad(layer(hidden, mask), leaves, gradient)


def our_step(problem: Problem, encoder: Encoder, fp8: bool):
    """One micro-batch of many in a step: fp8 scales and weights are there."""
    layer = problem.layer()
    leaves = [problem.hidden, *layer.parameters()]
    kept = fp8_layer(problem.config, problem.device) if fp8 else None

    def run():
        output = forward(encoder, layer, problem, problem.hidden, kept)
        torch.autograd.grad(output, leaves, problem.gradient)

    if kept is not None:
        forward(encoder, layer, problem, problem.hidden, kept).backward(problem.gradient)
        kept.scales.finish_step()
    return run


def measure(report: Report, case: str, config: BertConfig, attention, lengths: list[int]) -> None:
    problem = Problem(config, lengths, report.device, torch.bfloat16)
    facts = {"flops": 3 * layer_flops(config, lengths), "tokens": sum(lengths)}
    bound = report.time(case, "12 matrix products", products(problem))
    limit = bound.median if bound else None
    fused = elementwise.fused(config, report.smoke)
    for impl, compiled, fp8, kernels in (
        ("ours, compiled", True, False, PLAIN),
        ("ours, compiled, fused", True, False, fused),
        ("ours, compiled, fp8", True, True, PLAIN),
        ("ours, compiled, fused, fp8", True, True, fused),
        ("ours, operation by operation", False, False, PLAIN),
        ("ours, fused", False, False, fused),
    ):
        if reason := fp8 and fp8_problem(config, report.device):
            report.skip(case, impl, reason)
            continue
        step = our_step(problem, Encoder(attention, F.linear, compiled, kernels), fp8)
        report.time(case, impl, step, limit, **facts)
    report.time(case, "Hugging Face, eager, padded", stock_step(problem), limit, **facts)


def main() -> int:
    report = start("gpu_encoder", __doc__ or "", BARS)
    if report.smoke:  # the graphs are made, but no code from them
        torch.compile = partial(torch.compile, backend="eager")
    configs = {name: BertConfig(**size) for name, size in (TINY if report.smoke else SIZES).items()}
    num_tokens, checked = (100, 200) if report.smoke else (1 << 16, 4096)
    for name, config in configs.items():
        for part in (elementwise.check, elementwise.measure):
            report.attempt(f"element-wise, {name}", part, report, name, config)
        attention = attention_of(report, config, torch.bfloat16)
        lengths = lengths_of_batch("real", 64 if report.smoke else 512, checked)
        if config is next(iter(configs.values())):  # compiling takes long
            attempt = partial(report.attempt, f"correctness of {name}", check)
            attempt(report, name, config, attention, lengths)
        for kind, longest in CASES[:1] if report.smoke else CASES:
            case, longest = f"{name} {longest} {kind} lengths", 64 if report.smoke else longest
            lengths = lengths_of_batch(kind, longest, num_tokens)
            report.attempt(case, measure, report, case, config, attention, lengths)
        torch._dynamo.reset()  # graphs of other sizes count against a limit
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
