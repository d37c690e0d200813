"""torch's AdamW."""

from typing import Any

from torch.optim import AdamW

from ds_bert.optim.entry import BETAS, EPS, LEARNING_RATE, WEIGHT_DECAY, OptimizerEntry


def _build(groups: list[dict[str, Any]], betas: tuple[float, float], **options: Any) -> AdamW:
    return AdamW(groups, betas=tuple(betas), fused=True, **options)  # type: ignore[arg-type]


ADAMW = OptimizerEntry(
    build=_build,
    options={"lr": LEARNING_RATE, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY},
    state_bytes=8,  # two moments in fp32
)
