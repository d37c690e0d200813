"""NVIDIA's own figures of BERT-large on many hosts, and the model with NVIDIA's way to send.

Source: NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT/README.md (21.11 container),
"Pre-training NVIDIA DGX A100 (8x A100 80GB) Multi-node Scaling", mixed precision: LAMB, batches of
65,536 sequences of 128 tokens and 32,768 of 512, each shared out among all GPUs.
"""

from time_model.engine import parameter_count
from time_model.gpus import Ceilings
from time_model.step import NODE, ring

# Sequences per second by number of nodes, 8 GPUs each.
A100 = {
    128: {1: 4553, 2: 9191, 4: 18_119, 8: 35_774, 16: 70_555, 32: 138_294},
    512: {1: 1648, 2: 3291, 4: 6464, 8: 13_005, 16: 25_570, 32: 49_663},
}
BATCH = {128: 65_536, 512: 32_768}
NETWORK = 8 * 200e9 / 8  # bytes/s of a DGX A100 by its data sheet: eight cards of 200 Gbit/s
_GRADIENT = 2  # bytes; fp16, by all-reduce, which is two passes around the ring
_OPTIMIZER_BYTES = 54  # per parameter, all of them on every GPU: apex' LAMB in two stages
_PARAMETERS = parameter_count(24, 1024, 30_528)


def efficiency(length: int, nodes: int) -> float:
    """Published throughput by that of as many single nodes."""
    return A100[length][nodes] / (nodes * A100[length][1])


def modelled(length: int, nodes: int, ceilings: Ceilings, network: float = NETWORK) -> float:
    """The same by the model: one node's published speed, and what a step of more nodes adds.

    Args:
        length: 128 or 512.
        nodes: of 8 GPUs.
        ceilings: of an A100-80, for the optimizer.
        network: bytes/s of a node to the others.
    """
    alone = BATCH[length] / A100[length][1]
    computing = alone - _once_a_step(1, ceilings, network)
    step = computing / nodes + _once_a_step(nodes, ceilings, network)
    return alone / nodes / step


def _once_a_step(nodes: int, ceilings: Ceilings, network: float) -> float:
    """Seconds that do not shrink with the share of the batch; nothing is taken to be hidden."""
    reduction = 2 * ring(_GRADIENT * _PARAMETERS, nodes * NODE, network)
    return reduction + _OPTIMIZER_BYTES * _PARAMETERS / ceilings.stream
