"""Which fused kernels serve: on CUDA those that are right there and faster than what they replace.

Each is held to its plain twin on a few rows, forward and backward, and timed beside the operations
of the modules, which are compiled if the layers are.
"""

from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from ds_bert_kernels.reference import bias_gelu as plain_gelu
from ds_bert_kernels.reference import dropout_add_norm as plain_norms
from ds_bert_kernels.reference import embeddings as plain_embeddings
from torch import Tensor

from ds_bert.model.attention import difference
from ds_bert.model.elementwise import Elementwise

Function = Callable[..., Tensor]  # of tensors, all of which have gradients
# Activations as configurations name them, and how torch is to compute them.
APPROXIMATE = {
    "gelu": "none",
    "gelu_python": "none",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
}
MODULES = ("embeddings", "dropout_add_norm", "bias_gelu")
_TRIAL_ROWS = 37
_TIMED_ELEMENTS = 1 << 26  # so many that the device takes longer than the host
_CALLS, _ROUNDS = 4, 5


class Candidate(NamedTuple):
    """A fused kernel and what it would replace, as functions of tensors alone.

    Attributes:
        checked: the kernel in all its uses.
        twin: likewise in plain torch, with the same mask.
        fused: the kernel, to be timed.
        replaced: the modules' operations, with the bias that a product may add at no price.
        columns: of all tensors.
        rows: of each tensor; None for as many as the output has, 0 for a vector.
        num_ids: of each tensor of ids that comes before the others, their number.
    """

    checked: Function
    twin: Function
    fused: Function
    replaced: Function
    columns: int
    rows: tuple[int | None, ...]
    num_ids: tuple[int, ...] = ()


def choose_elementwise(
    device: torch.device,
    dtype: torch.dtype,
    config: Any,
    compiled: bool,
    only: Collection[str] | None = None,
) -> tuple[Elementwise, list[str]]:
    """Try the fused kernels on a device.

    Args:
        device: where the model will be.
        dtype: of its activations and parameters.
        config: of the model.
        compiled: whether its layers are compiled.
        only: names of kernels that were chosen before: others are not tried, nothing is timed.

    Returns:
        what to use, and a line for each kernel that was refused.
    """
    if device.type != "cuda":
        return Elementwise(), []
    try:
        embeddings, norms, gelus = (import_module(f"ds_bert_kernels.{name}") for name in MODULES)
    except ImportError as error:
        return Elementwise(), [f"fused kernels not used: {error}"]
    candidates = {"norms": norm_candidate(norms, config, device)}
    if config.type_vocab_size <= 2:
        candidates["embeddings"] = embedding_candidate(embeddings, config, device)
    if config.hidden_act in APPROXIMATE:
        candidates["GELU"] = gelu_candidate(gelus, config)
    refused = []
    if only is not None:
        candidates = {name: one for name, one in candidates.items() if f"fused {name}" in only}
    for name, candidate in list(candidates.items()):
        if problem := find_problem(candidate, device, dtype, compiled, only is None):
            refused.append(f"fused {name} not used: {problem}")
            del candidates[name]
    torch.cuda.empty_cache()
    return Elementwise(
        norms if "norms" in candidates else None,
        candidates["GELU"].fused if "GELU" in candidates else None,
        embeddings.embed if "embeddings" in candidates else None,
    ), refused


def norm_candidate(norms: Any, config: Any, device: torch.device) -> Candidate:
    """Dropout, addition and LayerNorm of a module like `ds_bert_kernels.dropout_add_norm`."""
    eps, dropout = config.layer_norm_eps, config.hidden_dropout_prob
    rest = {"eps": eps, "dropout": dropout, "seed": torch.tensor([1], device=device)}
    once = partial(norms.dropout_add_layer_norm, **rest)

    def twice(module: Any, *tensors: Tensor) -> Tensor:
        one, other = module.dropout_add_layer_norm_twice(*tensors, **rest)
        return one + other

    def replaced(x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, beta: Tensor) -> Tensor:
        total = F.dropout(x + bias, dropout) + residual
        return F.layer_norm(total, bias.shape, weight, beta, eps)

    return Candidate(
        partial(twice, norms), partial(twice, plain_norms), once, replaced,
        config.hidden_size, (None, 0, None, 0, 0),
    )  # fmt: skip


def embedding_candidate(embeddings: Any, config: Any, device: torch.device) -> Candidate:
    """The embeddings of a module like `ds_bert_kernels.embeddings`."""
    eps, dropout = config.layer_norm_eps, config.hidden_dropout_prob
    rest = {"eps": eps, "dropout": dropout, "seed": torch.tensor([1], device=device)}
    fused, twin = (partial(module.embed, **rest) for module in (embeddings, plain_embeddings))

    def replaced(*tensors: Tensor) -> Tensor:
        return F.dropout(plain_embeddings.embed(*tensors, eps, 0.0, rest["seed"]), dropout)

    sizes = (config.vocab_size, config.type_vocab_size, config.max_position_embeddings)
    return Candidate(fused, twin, fused, replaced, config.hidden_size, (*sizes, 0, 0), sizes)


def gelu_candidate(gelus: Any, config: Any) -> Candidate:
    """Bias and GELU of a module like `ds_bert_kernels.bias_gelu`."""
    approximate = APPROXIMATE[config.hidden_act]
    fused, twin = (
        partial(module.bias_gelu, approximate=approximate) for module in (gelus, plain_gelu)
    )
    return Candidate(fused, twin, fused, twin, config.intermediate_size, (None, 0))


def find_problem(
    candidate: Candidate,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool,
    is_timed: bool = True,
) -> str | None:
    """Why a kernel had better not be used, in words; None if it should."""
    fused, replaced = candidate.fused, candidate.replaced
    try:
        tensors = tensors_of(candidate, _TRIAL_ROWS, device, dtype)
        checked = candidate.checked
        if compiled:  # into a graph, but without code from it
            checked = torch.compile(checked, backend="aot_eager", dynamic=True)
        found = results(checked, tensors)
        expected = results(candidate.twin, [in_dtype(t, torch.float32) for t in tensors])
        limit = 1e-4 if dtype == torch.float32 else 3e-2
        wrong = max(map(difference, found, expected))
        if not wrong < limit:
            return f"relative error {wrong:.1e}, expected below {limit:.0e}"
        if not is_timed:
            return None
        tensors = tensors_of(candidate, _TIMED_ELEMENTS // candidate.columns, device, dtype)
        other = torch.compile(replaced, dynamic=True) if compiled else replaced
        taken, before = (milliseconds(function, tensors) for function in (fused, other))
    except Exception as error:  # Triton's are of no common kind, and all say the same: not here
        return str(error).strip().split("\n")[0]
    return None if taken < before else f"{taken:.2f} ms, what it would replace {before:.2f} ms"


def milliseconds(function: Function, tensors: list[Tensor]) -> float:
    """Of one call on CUDA, forward and backward."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(1 + _ROUNDS):
        begin.record()
        for _ in range(_CALLS):
            results(function, tensors)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / _CALLS)
    return median(times[1:])  # the first one compiles


def tensors_of(
    candidate: Candidate, num_rows: int, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    """The gradient of a candidate's output of so many rows, then its inputs; all are random."""
    generator = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": device}
    shapes = [(num_rows if rows is None else rows, candidate.columns) for rows in candidate.rows]
    gradient, *others = (
        torch.randn(shape if shape[0] else shape[1:], dtype=dtype, **options)
        for shape in [(num_rows, candidate.columns), *shapes]
    )
    ids = [torch.randint(limit, (num_rows,), **options) for limit in candidate.num_ids]
    return [gradient, *ids, *others]


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Ids stay what they are."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def results(function: Function, tensors: list[Tensor]) -> list[Tensor]:
    """Output and gradients, for what `tensors_of` gives."""
    gradient, *inputs = tensors
    inputs = [tensor.detach() for tensor in inputs]
    leaves = [tensor.requires_grad_() for tensor in inputs if tensor.is_floating_point()]
    output = function(*inputs)
    return [output.detach(), *torch.autograd.grad(output, leaves, gradient)]
