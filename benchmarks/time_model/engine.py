"""What DeepSpeed's engine and the optimizer cost beside the model: the one place to correct.

Bytes per parameter, read from DeepSpeed 0.19.8 (`bf16_optimizer.py`, `allreduce_bucket` of
`engine.py`), ds_bert/optim/bf16_optimizer.py and kernels/lamb.py, with gradients summed in fp32.
What is sent is counted in tests/training/test_wire.py:

    each micro-batch                                before      after
        zero the bf16 gradients                          2          0   (dropped, not zeroed)
        autograd adds to them                            6          0   (backward writes them anew)
        cast to fp32 (reads 2, writes 4)                 6          0
        add to the sums (reads 4 + 4, or 2 + 4)         12         10
                                                        26         10
    each step, all parameters on every rank
        copy the reduced sums back                       8          0   (reduced in place)
        cast to bf16 for the wire and back          6 +  6          0   (fp32 on the wire)
        norm, tensor by tensor                           4          0   (of the rank's own share)
        clip, tensor by tensor (reads and writes)        8          0   (a factor in the optimizer)
        zero the sums, twice                             8          0   (the next ones replace them,
        the first gradients of a step are no addition    0         -4    so less is read)
                                                        40         -4
    each step, a rank's share of the parameters
        divide by the ranks, take the norm               0      8 + 4
        LAMB: 24 in the first pass, 16 in the second    40         40
        cast to bf16                                     6          6
                                                        46         58
    on the wire, times (ranks - 1) / ranks
        gradients: all-reduce in bf16, which is two
        passes, or reduce-scatter in fp32, one       2 x 2          4
        weights: all-gather in bf16                      2          2
                                                         6          6

AdamW in one pass reads p, g, m, v and writes p, m, v: 28 in place of LAMB's 40.
"""

from typing import NamedTuple

LAMB_BYTES = 40
OPTIMIZER_BYTES = {"Lamb": LAMB_BYTES, "AdamW": 28, "Adam": 28}  # assumed for others: as LAMB
PARAMETER_BYTES = 2  # of the weights that ranks gather


class EngineCosts(NamedTuple):
    """Costs in one state of the code; bytes are per parameter.

    Attributes:
        micro_batch_bytes: of each micro-batch.
        step_bytes: of each step, all parameters on every rank.
        share_bytes: of each step, divided among the ranks, with LAMB.
        wire_bytes: of a gradient in each pass.
        wire_passes: of the gradients around the ring of ranks.
        waits: of the host for the device, in each micro-batch.
        step_waits: the same in each step.
        step_gap: seconds of a step in which the device idles behind those waits.
        launches: per tensor and micro-batch.
    """

    micro_batch_bytes: int
    step_bytes: int
    share_bytes: int
    wire_bytes: int
    wire_passes: int
    waits: int
    step_waits: int
    step_gap: float
    launches: int


ENGINES = {
    # Waits: the throughput timer in forward and in step; in the optimizer whether the norm is
    # finite and whether to clip, then up to 400 multiplications of about 12 us each.
    "before": EngineCosts(26, 40, 46, 2, 2, 2, 2, 5e-3, 3),
    "after": EngineCosts(10, -4, 58, 4, 1, 0, 0, 0.0, 1),
}
WAIT = 0.7e-3  # seconds; the device idles until the first kernels are queued anew. Assumed
LAUNCH = 17.6e-6  # seconds of the host, Python included. Assumed: 37 ms for 2,100


def tensor_count(num_layers: int) -> int:
    """Parameter tensors of BertForPreTraining."""
    return 16 * num_layers + 5 + 2 + 5 + 2  # layers, embeddings, pooler, masked-LM, next sentence


def parameter_count(num_layers: int, hidden_size: int, vocab_size: int) -> int:
    """Parameters of BertForPreTraining, tied weights once; inner size 4 H, 512 positions."""
    size = hidden_size
    embeddings = (vocab_size + 512 + 2 + 2) * size
    layers = num_layers * (12 * size**2 + 13 * size)
    heads = 2 * (size**2 + size) + 2 * size + vocab_size + 2 * size + 2
    return embeddings + layers + heads
