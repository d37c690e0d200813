"""Plain-torch twin of bias and GELU after the first product of the feed-forward block."""

import torch.nn.functional as F
from torch import Tensor


def bias_gelu(x: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """gelu(x + bias).

    Args:
        x: [T, N], floating point; T may be 0.
        bias: [N], added to every row.
        approximate: "none": x times the normal distribution's function; "tanh": near to it.

    Returns:
        [T, N], dtype of x.

    Source: Hendrycks, Gimpel 2016, "Gaussian Error Linear Units".
    """
    return F.gelu(x + bias, approximate=approximate)
