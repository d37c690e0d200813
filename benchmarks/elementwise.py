"""The fused element-wise kernels for gpu/encoder.py: right, and how fast beside a copy.

Errors are relative norms against the plain twin in float64, in brackets those of the twin in the
same dtype. The bound is a copy of the bytes that the kernel moves, forward and backward.
"""

from functools import partial

import torch
from ds_bert_kernels.reference import bias_gelu, dropout_add_norm, embeddings
from suite import Report, copy_speed, relative_errors
from transformers import BertConfig

from ds_bert.model import elementwise_choice as choice
from ds_bert.model.elementwise import Elementwise

TOLERANCES = {torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-3}
# Rows of T x columns that are moved forward and backward, by name of the candidate.
MOVED = {"norms": 4 + 4, "GELU": 2 + 3, "embeddings": 4 + 6}
ROWS = {False: 65536, True: 2}  # by whether it is a smoke test
CHECKED = {False: 37, True: 17}


def kernels():
    """The modules, which need Triton."""
    from ds_bert_kernels import bias_gelu, dropout_add_norm, embeddings

    return dropout_add_norm, bias_gelu, embeddings


def fused(config: BertConfig, smoke: bool) -> Elementwise:
    """All, whatever was measured; in a smoke test their twins, for the interpreter is slow."""
    modules = (dropout_add_norm, bias_gelu, embeddings) if smoke else kernels()
    norms, gelus, tables = modules
    return Elementwise(norms, choice.gelu_candidate(gelus, config).fused, tables.embed)


def candidates(config: BertConfig, device: torch.device) -> dict[str, choice.Candidate]:
    norms, gelus, tables = kernels()
    return {
        "norms": choice.norm_candidate(norms, config, device),
        "GELU": choice.gelu_candidate(gelus, config),
        "embeddings": choice.embedding_candidate(tables, config, device),
    }


def check(report: Report, name: str, config: BertConfig) -> None:
    dtypes = list(TOLERANCES)[: 2 if report.smoke else 3]  # the interpreter computes bf16 wrongly
    for kind, candidate in candidates(config, report.device).items():
        labels = ["output", *(f"d{place}" for place in range(len(candidate.rows)))]
        for dtype in dtypes:
            tensors = choice.tensors_of(candidate, CHECKED[report.smoke], report.device, dtype)
            exact = choice.results(
                candidate.twin, [choice.in_dtype(tensor, torch.float64) for tensor in tensors]
            )
            errors = partial(relative_errors, labels, exact=exact)
            found, again, plain = (
                choice.results(function, tensors)
                for function in (candidate.checked, candidate.checked, candidate.twin)
            )
            report.check(
                f"{name} {kind} {str(dtype)[6:]}", errors(found), errors(plain), TOLERANCES[dtype],
                same_bits=all(map(torch.equal, found, again)),
            )  # fmt: skip


def measure(report: Report, name: str, config: BertConfig) -> None:
    speed = copy_speed(report.device)
    dtype = torch.float32 if report.smoke else torch.bfloat16
    for kind, candidate in candidates(config, report.device).items():
        tensors = choice.tensors_of(candidate, ROWS[report.smoke], report.device, dtype)
        bound = MOVED[kind] * tensors[0].nbytes / speed * 1e3
        compiled = torch.compile(candidate.replaced, dynamic=True)
        implementations = {"fused": candidate.fused, "compiled": compiled}
        for impl, function in implementations.items():
            step = partial(choice.results, function, tensors)
            report.time(f"{name} {kind}", impl, step, bound)
