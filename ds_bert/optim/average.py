"""An exponential moving average of the weights, beside the optimizer's moments.

It is one more vector of the optimizer's state: fp32, of this rank's partition alone. So ranks
exchange nothing for it, and it is saved, restored and cut anew as moments are.

Source: Polyak and Juditsky 1992; as in torch.optim.swa_utils (get_ema_multi_avg_fn).
"""

from typing import Any

import torch
from torch.optim import Optimizer

AVERAGE = "weight_average"  # its name in the state of each tensor or partition
AVERAGE_BYTES = 4  # per parameter of the partition


def keep_average(optimizer: Optimizer, decay: float) -> None:
    """From now on after each update: average = decay average + (1 - decay) weights.

    After the first one it is the weights. A skipped step leaves it as it is: DeepSpeed does not
    call the optimizer then, or has told it by `found_inf`, which stays on the device.

    Args:
        optimizer: holds fp32 tensors, the model's own or ZeRO's partitions of their masters.
        decay: 0 to 1; the average is about that of the last 1 / (1 - decay) updates.
    """

    @torch.no_grad()
    def update(optimizer: Optimizer, *_: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        weight = 1 - decay if found_inf is None else (1 - decay) * (found_inf == 0)
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                state = optimizer.state.get(tensor)
                if not state:  # no gradient yet; an optimizer takes what is not empty for its own
                    continue
                if AVERAGE in state:
                    state[AVERAGE].lerp_(tensor, weight)
                else:
                    state[AVERAGE] = tensor.detach().clone()

    optimizer.register_step_post_hook(update)


def forget_average(optimizer: Optimizer) -> None:
    """Drop what a checkpoint has brought of it."""
    for state in optimizer.state.values():
        state.pop(AVERAGE, None)
