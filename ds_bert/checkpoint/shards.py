"""DeepSpeed's files of a checkpoint: their names, and what in them is read here.

mp_rank_00_model_states.pt                  module: the weights in the precision of training;
                                            counters; at ZeRO stage 0 the optimizer, too
zero_pp_rank_N_mp_rank_00_optim_states.pt   rank N's part of the fp32 weights and moments (ZeRO)
"""

import re
from pathlib import Path
from typing import Any

from ds_bert.errors import CheckpointError

MODEL_STATES = "mp_rank_00_model_states.pt"
OPTIMIZER, MASTERS, INNER = (
    "optimizer_state_dict",
    "single_partition_of_fp32_groups",
    "base_optimizer_state",
)
_SHARD = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_?optim_states\.pt")


def is_shard(path: Path) -> bool:
    """Whether a file is called like one rank's part of an optimizer."""
    return _SHARD.fullmatch(path.name) is not None


def optimizer_files(folder: Path) -> list[Path]:
    """The optimizer's parts in the order of their ranks; none at ZeRO stage 0."""
    found = ((_SHARD.fullmatch(path.name), path) for path in folder.iterdir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def check_number(folder: Path, counts: Any, found: int) -> None:
    """Refuse a checkpoint that lacks the part of a rank.

    Args:
        folder: of the checkpoint.
        counts: how many ranks wrote it, or a list of that for each parameter group.
        found: how many parts are there.

    Raises:
        CheckpointError: another number.
    """
    counts = counts if isinstance(counts, list) else [counts]
    expected = max((count for count in counts if isinstance(count, int)), default=found)
    if found != expected:
        raise CheckpointError(
            f"{folder} has the shards of {found} ranks (*_optim_states.pt), it was written by "
            f"{expected}; copy the others, too"
        )
