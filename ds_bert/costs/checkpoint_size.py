"""Bytes of a checkpoint: on disk, and of its copy while it is written beside training."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointSize:
    """What the size of a checkpoint follows from.

    Attributes:
        num_parameters: of the model.
        precision: of its weights: fp32, bf16 or fp16.
        state_bytes: of the optimizer, per parameter, a moving average of the weights included.
        world_size: ranks.
    """

    num_parameters: int
    precision: str
    state_bytes: int
    world_size: int

    @property
    def disk(self) -> int:
        """About how large a checkpoint gets.

        Per parameter: fp32 master weight (4) and the optimizer's state, which ranks share out;
        working copy and exported model (4), which are rank 0's.
        """
        return self.num_parameters * (self._rank_0_bytes + 4 + self.state_bytes)

    @property
    def copy(self) -> int:
        """About how much memory of the host rank 0 takes to save beside training."""
        share = (4 + self.state_bytes) / self.world_size
        return round(self.num_parameters * (self._rank_0_bytes + share))

    @property
    def _rank_0_bytes(self) -> int:
        return 8 if self.precision == "fp32" else 6
