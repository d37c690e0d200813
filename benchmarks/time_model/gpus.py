"""Known GPUs by their data sheets, and the speeds that the model takes for them.

Without measurements a GPU is as far below its data sheet as one H200 is said to be: 790 TFLOP/s
in a large bf16 product, 4.3 TB/s in a copy. Without dropout FlashAttention-2 reaches 282 TFLOP/s
forward on an H100 (512 tokens, head size 64; Shah et al. 2024, "FlashAttention-3"); dropout is
taken to cost an eighth of that. All of these are assumptions.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ds_bert.model.flops import PEAK_TFLOPS


class GPU(NamedTuple):
    """A data sheet.

    Attributes:
        name: by which torch knows it.
        bandwidth: of its memory, TB/s.
        memory: bytes.
        num_sms: streaming multiprocessors.
        clock: boost, GHz, for which the peak is stated.
    """

    name: str
    bandwidth: float
    memory: float
    num_sms: int
    clock: float


GPUS = {
    "H200": GPU("NVIDIA H200", 4.8, 141e9, 132, 1.83),
    "H100": GPU("NVIDIA H100 80GB HBM3", 3.35, 80e9, 132, 1.83),
    "A100-80": GPU("NVIDIA A100-SXM4-80GB", 2.039, 80e9, 108, 1.41),
    "A100-40": GPU("NVIDIA A100-SXM4-40GB", 1.555, 40e9, 108, 1.41),
}


class Attempt(NamedTuple):
    """What is assumed about the kernels; TFLOP/s on an H200.

    Attributes:
        tile_us: what an output tile costs beside its multiplications. To store 64 KiB at an SM's
            share of the bandwidth takes 2.5 us, part of which can overlap.
        copy_share: bandwidth of fused element-wise kernels, as a share of a copy's.
        attention: FlashAttention-2 with dropout, 512 tokens, head size 64: forward, backward.
        dropout_instructions: machine instructions of dropout + add + LayerNorm per element and
            thread, in torch.compile's code; 0: hidden behind memory.
    """

    tile_us: float
    copy_share: float
    attention: tuple[float, float]
    dropout_instructions: int


ATTEMPTS = {
    "expected": Attempt(3.0, 0.8, (245, 172), 100),
    "upper": Attempt(1.0, 0.9, (262, 188), 0),
}
LARGE_PRODUCT, COPY = 790 / 989.5, 4.3 / 4.8  # shares of an H200's data sheet
FP8_GAIN = 1.4  # of a product over bf16, at these sizes; 2.0 by the data sheet
SHORT_ATTENTION = 0.62  # speed at 128 tokens, where it waits for memory, by that at 512
SHORT = 128
# A measured product stands for all with so many rows that their number hardly matters.
_MANY_ROWS, _ROWS_RATIO = 8192, 4

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Ceilings:
    """The speeds of a GPU: FLOP/s, bytes/s, seconds.

    Attributes:
        product: a large bf16 product.
        stream: a copy.
        elementwise: fused element-wise kernels.
        attention: forward, backward.
        tile: per output tile.
        dropout: per element, two kernels of a layer, where instructions are what it waits for.
        num_sms: of the GPU.
        measured_products: by dtype and (m, n, k).
        measured_attention: forward and backward together, by case such as "bert-base 128 full".
        notes: where each figure is from.
    """

    product: float
    stream: float
    elementwise: float
    attention: tuple[float, float]
    tile: float
    dropout: float
    num_sms: int
    measured_products: dict[tuple[str, Shape], float] = field(default_factory=dict)
    measured_attention: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def measured_product(self, shape: Shape, dtype: str) -> float | None:
        """Speed of the nearest measured product that can stand for it; None if there is none."""
        distances = {
            _ratio(shape, sides): speed
            for (kind, sides), speed in self.measured_products.items()
            if kind == dtype and all(map(_are_alike, shape, sides))
        }
        return distances[min(distances)] if distances else None

    def with_stream(self, speed: float) -> "Ceilings":
        """With a measured copy bandwidth; element-wise kernels stay at their share of it."""
        return replace(self, stream=speed, elementwise=self.elementwise / self.stream * speed)


def _are_alike(side: int, other: int) -> bool:
    smaller, larger = sorted((side, other))
    return side == other or (smaller >= _MANY_ROWS and larger <= _ROWS_RATIO * smaller)


def _ratio(shape: Shape, other: Shape) -> float:
    return max(max(a, b) / min(a, b) for a, b in zip(shape, other, strict=True))


def assumed(name: str, attempt: str) -> Ceilings:
    """The speeds of a GPU that nothing has been measured on."""
    gpu, taken, h200 = GPUS[name], ATTEMPTS[attempt], GPUS["H200"]
    peak = PEAK_TFLOPS[gpu.name] * 1e12
    stream = COPY * gpu.bandwidth * 1e12
    # FlashAttention-2 uses Ampere's instructions everywhere: multiprocessors and clock count.
    pace = gpu.num_sms * gpu.clock / (h200.num_sms * h200.clock)
    forward, backward = (speed * pace * 1e12 for speed in taken.attention)
    # Four schedulers of a multiprocessor each start an instruction of 32 threads per clock.
    threads = gpu.num_sms * 4 * 32 * gpu.clock * 1e9
    product = LARGE_PRODUCT * peak
    return Ceilings(
        product=product,
        stream=stream,
        elementwise=taken.copy_share * stream,
        attention=(forward, backward),
        tile=taken.tile_us * 1e-6,
        dropout=2 * taken.dropout_instructions / threads,
        num_sms=gpu.num_sms,
        notes=(
            f"data sheet: {peak / 1e12:,.1f} TFLOP/s in bf16, {gpu.bandwidth} TB/s",
            f"assumed: {product / 1e12:.0f} TFLOP/s in a large product and "
            f"{taken.tile_us:g} us a tile; fp8 x {FP8_GAIN}",
            f"assumed: copy {stream / 1e12:.2f} TB/s, element-wise {taken.copy_share:.0%} of it",
            f"assumed: attention with dropout at 512, forward {forward / 1e12:.0f} and backward "
            f"{backward / 1e12:.0f} TFLOP/s; at {SHORT} x {SHORT_ATTENTION}",
        ),
    )
