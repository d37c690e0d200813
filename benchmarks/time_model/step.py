"""The time of a training step as a sum of terms.

A micro-batch takes as long as the slower of the device, whose terms follow each other, and the
host that launches its kernels. Terms of a step are shared out among its micro-batches.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from synthetic_data import VOCAB_SIZE, draw_lengths

from ds_bert.costs.memory import SAVED_BYTES
from ds_bert.model.pretrained import PRESETS
from time_model import engine as costs
from time_model import products
from time_model.engine import EngineCosts
from time_model.gpus import SHORT, SHORT_ATTENTION, Ceilings

MASKED = 0.15  # of the tokens
# Bytes per token, layer and unit of the hidden size, forward and backward: of the code that
# torch.compile makes of ds_bert/model/encoder.py for an H200.
LAYER_BYTES = {"bf16": 123, "fp8": 191}
DROPOUT_BYTES = 12  # of these in the two kernels dropout + add + LayerNorm
LAYER_LAUNCHES, OTHER_LAUNCHES = 38, 60
# Forward: word embedding, sum in fp32, output. Backward: LayerNorm, then three tables read it.
EMBEDDING_BYTES = (2 + 4 + 2) + (2 + 4 + 2 + 2) + 3 * 2
EMBEDDING_SORTS = 3 * 1e-4  # seconds; of the ids, for each table's gradient. Assumed
# Forward reads, backward reads and writes; the sums of 128 rows, written and read.
LOGIT_BYTES = 2 + 4 + 2 * 4 / 128
TIED_BYTES = 2 + 6  # gradient of the word embeddings: zeroed, added to the decoder's
FORWARD_TILE, BACKWARD_TILE = (128, 64), (128, 128)  # of FlashAttention-2, head size 64, dropout
STATE_BYTES, SHARED_STATE_BYTES = 2 + 2 + 4, 12  # per parameter: on every rank; shared out by ZeRO
NVLINK = 370e9  # bytes/s of a GPU. Assumed
NODE = 8  # GPUs
HOP = 1e-5  # seconds from one GPU to the next. Assumed
SMALL_MESSAGES = 3  # of a step: the gradients' norm, LAMB's norms of tensors, whether to stop


class Cell(NamedTuple):
    """What is trained.

    Attributes:
        model: "bert-base" or "bert-large"; any of `PRESETS`.
        length: tokens of a full sequence.
        kind: "real" or "full", see synthetic_data.py.
        sequences: of a micro-batch.
        accumulation: micro-batches of a step on one GPU.
        gpus: how many.
        dtype: of the layers' products, "bf16" or "fp8".
        optimizer: as in a recipe.
    """

    model: str
    length: int
    kind: str
    sequences: int
    accumulation: int = 4
    gpus: int = 1
    dtype: str = "bf16"
    optimizer: str = "Lamb"

    @property
    def name(self) -> str:
        """As gpu_steps.json calls it."""
        return f"{self.model} {self.length} {self.kind} lengths"

    @property
    def tokens(self) -> int:
        """Of a micro-batch, without padding."""
        return round(self.sequences * sample(self.kind, self.length).mean())


class Prediction(NamedTuple):
    """Seconds of a micro-batch, by term, and what follows from them."""

    terms: dict[str, float]
    ruling: str
    sequences_per_second: float

    @property
    def micro_batch(self) -> float:
        """Seconds, the step's own share included."""
        return sum(self.terms.values())


@cache
def sample(kind: str, length: int) -> NDArray[np.int64]:
    """Many sequence lengths of that kind."""
    return draw_lengths(kind, length, 100_000)


def predict(cell: Cell, ceilings: Ceilings, engine: EngineCosts, network: float) -> Prediction:
    """The time of a cell.

    Args:
        cell: what is trained.
        ceilings: the speeds of the GPU.
        engine: the state of the code.
        network: of a node of 8 GPUs to the others, bytes/s.
    """
    layers, size = _sizes(cell)
    num_parameters = costs.parameter_count(layers, size, VOCAB_SIZE)
    device = {
        "products": layers * _layer_products(cell, ceilings),
        "attention": layers * attention(cell, ceilings),
        "element-wise": layers * elementwise(cell, ceilings),
        "head": head(cell, ceilings),
        "embeddings": embeddings(cell, ceilings),
        "engine": engine.micro_batch_bytes * num_parameters / ceilings.stream,
        "waits": engine.waits * costs.WAIT,
    }
    launches = layers * LAYER_LAUNCHES + OTHER_LAUNCHES
    launches += engine.launches * costs.tensor_count(layers)
    host = max(0.0, launches * costs.LAUNCH - sum(device.values()))
    device["waits"] += engine.step_gap / cell.accumulation
    of_step = {
        "optimizer": optimizer(cell, num_parameters, ceilings, engine),
        "communication": communication(num_parameters, cell.gpus, engine, network),
    }
    shares = {name: value / cell.accumulation for name, value in of_step.items()}
    terms = device | shares | {"launches": host}
    sequences = cell.sequences * cell.gpus / sum(terms.values())
    return Prediction(terms, "launches" if host else max(terms, key=terms.__getitem__), sequences)


def _sizes(cell: Cell) -> tuple[int, int]:
    preset = PRESETS[cell.model]
    return preset["num_hidden_layers"], preset["hidden_size"]


def _layer_products(cell: Cell, ceilings: Ceilings) -> float:
    shapes = products.of_layer(cell.tokens, _sizes(cell)[1])
    return products.seconds(shapes, ceilings, cell.dtype)


def attention(cell: Cell, ceilings: Ceilings) -> float:
    """One layer; what tiles compute beyond the ends of sequences counts."""
    size, lengths = _sizes(cell)[1], sample(cell.kind, cell.length)
    per_area = 4 * size * cell.sequences  # operations, forward; backward has 2.5 times as many
    if measured := ceilings.measured_attention.get(cell.name):
        return 3.5 * per_area * float((lengths**2).mean()) / measured
    pace = SHORT_ATTENTION if cell.length <= SHORT else 1.0
    areas = (_tiled_area(lengths, *tile) for tile in (FORWARD_TILE, BACKWARD_TILE))
    work = zip((1.0, 2.5), areas, ceilings.attention, strict=True)
    return sum(times * per_area * area / speed / pace for times, area, speed in work)


def _tiled_area(lengths: NDArray[np.int64], rows: int, columns: int) -> float:
    """Mean of the squares of lengths, each side in whole tiles."""
    return float((-(-lengths // rows) * rows * (-(-lengths // columns) * columns)).mean())


def elementwise(cell: Cell, ceilings: Ceilings) -> float:
    """One layer: bytes, and what dropout's instructions take longer than its bytes."""
    elements = cell.tokens * _sizes(cell)[1]
    excess = max(0.0, ceilings.dropout - DROPOUT_BYTES / ceilings.elementwise)
    return elements * (LAYER_BYTES[cell.dtype] / ceilings.elementwise + excess)


def head(cell: Cell, ceilings: Ceilings) -> float:
    """Masked-LM and next-sentence head: products in bf16, rows of logits."""
    size, masked = _sizes(cell)[1], round(MASKED * cell.tokens)
    shapes = products.of_head(masked, cell.sequences, size, VOCAB_SIZE)
    num_bytes = LOGIT_BYTES * masked * VOCAB_SIZE
    return products.seconds(shapes, ceilings) + num_bytes / ceilings.elementwise


def embeddings(cell: Cell, ceilings: Ceilings) -> float:
    """Three tables, LayerNorm and dropout."""
    size = _sizes(cell)[1]
    num_bytes = size * (EMBEDDING_BYTES * cell.tokens + TIED_BYTES * VOCAB_SIZE)
    return num_bytes / ceilings.elementwise + EMBEDDING_SORTS


def memory(cell: Cell) -> float:
    """Bytes on one GPU, about: saved activations, logits, weights, gradients, LAMB's state."""
    layers, size = _sizes(cell)
    activations = layers * size * SAVED_BYTES * cell.tokens
    logits = 2 * VOCAB_SIZE * MASKED * cell.tokens
    state = STATE_BYTES + SHARED_STATE_BYTES / cell.gpus
    return activations + logits + state * costs.parameter_count(layers, size, VOCAB_SIZE)


def optimizer(cell: Cell, parameters: int, ceilings: Ceilings, engine: EngineCosts) -> float:
    """One step on one rank of ZeRO stage 1."""
    own = costs.OPTIMIZER_BYTES.get(cell.optimizer, costs.LAMB_BYTES) - costs.LAMB_BYTES
    per_parameter = engine.step_bytes + (engine.share_bytes + own) / cell.gpus
    return per_parameter * parameters / ceilings.stream


def communication(parameters: int, gpus: int, engine: EngineCosts, network: float) -> float:
    """Gradients and weights in rings, small messages in trees; hidden behind nothing."""
    gradients = engine.wire_passes * ring(engine.wire_bytes * parameters, gpus, network)
    small = SMALL_MESSAGES * 2 * (gpus - 1).bit_length() * HOP
    return gradients + ring(costs.PARAMETER_BYTES * parameters, gpus, network) + small


def ring(num_bytes: float, gpus: int, network: float) -> float:
    """Seconds of a reduce-scatter or an all-gather of so many bytes.

    A ring that leaves a node crosses its network once, so the network counts as a whole.
    """
    speed = NVLINK if gpus <= NODE else min(NVLINK, network)
    return num_bytes * (gpus - 1) / gpus / speed + (gpus - 1) * HOP
