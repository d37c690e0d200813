"""Bytes that a rank needs, part by part: counted in the code, not measured.

What each number stands for can be read off the modules named beside it. Sequences are taken to be
as long as they may be: in a long run the longest do come together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Per token, layer and unit of the hidden size, from forward to backward: torch.compile's code of
# model/encoder.py in bf16, for a GPU (attention keeps nothing of the square of the length there).
SAVED_BYTES = 32.5
# The same without compilation (a CPU), in elements: query, key, value; the scaled query; context;
# two kinds of dropout noise; input and output of two LayerNorms; before and after the activation.
_SAVED_ELEMENTS = 3 + 1 + 1 + 2 + 4
_SAVED_INNER = 2  # of the intermediate size
_SAVED_SQUARES = 3  # of heads x length: softmax, noise, what is left of it
_EMBEDDING_ELEMENTS = 4  # sum, LayerNorm's input, noise, output
MAX_LOGITS_BYTES = 2 << 30  # kernels/masked_lm_head.py works off more in chunks
_LIBRARIES_BYTES = 0.12e9  # what the first steps on a CPU load and compile. Measured: docs/costs.md
_CONTEXT_BYTES = 1.0e9  # a CUDA context and its libraries. Assumed, not measured


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What a rank's memory follows from; sizes in elements.

    Attributes:
        model: num_hidden_layers, hidden_size, num_attention_heads, intermediate_size, vocab_size.
        num_parameters: of the model.
        precision: of the weights: fp32, bf16 or fp16.
        sums_in_fp32: whether bf16 gradients are added up in fp32.
        stage: of ZeRO.
        world_size: ranks.
        state_bytes: of the optimizer, per parameter.
        bucket_elements: DeepSpeed's reduce_bucket_size.
        micro_batch_size: sequences of a forward pass.
        eval_batch_size: the same in validation; 0: none.
        max_seq_length: tokens of a sequence.
        masked_share: of the tokens.
        is_gpu: or a CPU.
        average_bytes: of a moving average of the weights, per parameter; 0: none.
        copy_bytes: of the copy that is written beside training; 0: none.
    """

    model: Mapping[str, Any]
    num_parameters: int
    precision: str
    sums_in_fp32: bool
    stage: int
    world_size: int
    state_bytes: int
    bucket_elements: int
    micro_batch_size: int
    eval_batch_size: int
    max_seq_length: int
    masked_share: float
    is_gpu: bool
    average_bytes: int = 0
    copy_bytes: int = 0

    @property
    def width(self) -> int:
        """Bytes of an element of weights and activations."""
        return 4 if self.precision == "fp32" else 2

    @property
    def share(self) -> float:
        """Parameters that this rank steps."""
        return self.num_parameters / (self.world_size if self.stage else 1)


def parts(rank: Rank, process: float | None = None) -> dict[str, float]:
    """Bytes by part.

    Args:
        rank: what they follow from.
        process: of the program before there is a model; None: what a GPU's libraries are assumed
            to take.
    """
    kept, head = activations(rank), max(_logits(rank), _validation_logits(rank))
    # A CPU keeps what is freed (distributed.py), and batches of other sizes do not fit into it:
    # as much again. Measured: docs/costs.md.
    average = {"average": rank.average_bytes * rank.share} if rank.average_bytes else {}
    fragments = {} if rank.is_gpu else {"fragments": kept + head}
    libraries = 0.0 if rank.is_gpu else _LIBRARIES_BYTES
    return {
        "weights": rank.width * rank.num_parameters,
        "masters": 4 * rank.share if rank.stage else 0.0,
        "moments": rank.state_bytes * rank.share,
        **average,
        "gradients": _gradients(rank),
        "activations": kept,
        "head": head,
        "buffers": _buffers(rank),
        **fragments,
        "program": _CONTEXT_BYTES if process is None else process + libraries,
    }


def _gradients(rank: Rank) -> float:
    """What is alive at the end of a backward pass, or in the step after it."""
    if rank.precision == "bf16" and rank.sums_in_fp32:
        return 4 * rank.num_parameters  # sums; each gradient is added to them at once
    if not rank.stage:
        return rank.width * rank.num_parameters
    # Gradients, then the rank's own sums, made flat and fp32 for the step.
    return rank.width * (rank.num_parameters + rank.share) + 4 * rank.share


def activations(rank: Rank) -> float:
    """What the encoder keeps for the backward pass."""
    model, tokens = rank.model, rank.micro_batch_size * rank.max_seq_length
    hidden, layers = model["hidden_size"], model["num_hidden_layers"]
    embeddings = _EMBEDDING_ELEMENTS * hidden * rank.width
    if rank.is_gpu:
        return tokens * (embeddings + layers * hidden * SAVED_BYTES * rank.width / 2)
    squares = _SAVED_SQUARES * model["num_attention_heads"] * rank.max_seq_length
    elements = _SAVED_ELEMENTS * hidden + _SAVED_INNER * model["intermediate_size"] + squares
    return tokens * (embeddings + layers * elements * rank.width)


def _logits(rank: Rank) -> float:
    # Logits, the same in fp32, their logarithm, its gradient, the logits' gradient.
    return _of_masked(rank, rank.micro_batch_size, 12 if rank.precision == "fp32" else 16)


def _validation_logits(rank: Rank) -> float:
    """The same without gradients."""
    return _of_masked(rank, rank.eval_batch_size, 8 if rank.precision == "fp32" else 10)


def _of_masked(rank: Rank, num_sequences: int, cpu_bytes: int) -> float:
    """Of the masked tokens of a batch: a kernel on a GPU, plain torch on a CPU."""
    count = num_sequences * rank.max_seq_length * rank.masked_share
    elements = count * rank.model["vocab_size"]
    if rank.is_gpu:
        return min(rank.width * elements, MAX_LOGITS_BYTES)
    return elements * cpu_bytes


def _buffers(rank: Rank) -> float:
    """DeepSpeed's bucket, which a GPU gives whole; the tied weight's gradient; a save's copy."""
    tied = rank.width * rank.model["vocab_size"] * rank.model["hidden_size"]
    has_bucket = rank.stage and not (rank.precision == "bf16" and rank.sums_in_fp32)
    if rank.is_gpu:
        return tied + rank.width * rank.bucket_elements * bool(has_bucket)
    return tied + rank.copy_bytes
