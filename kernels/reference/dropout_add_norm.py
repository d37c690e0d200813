"""Plain-torch twin of what follows a block's last product: bias, dropout, addition, LayerNorm."""

from typing import Any

import torch
import torch.nn.functional as F
from ds_bert_kernels.reference import philox
from torch import Tensor


def dropout_add_layer_norm(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    dropout: float,
    seed: Tensor,
) -> Tensor:
    """layer_norm(dropout(x + bias) + residual).

    Args:
        x: [T, H], floating point; T may be 0.
        bias: [H], added to every row; None: x has it.
        residual: [T, H], dtype of x.
        weight: [H] of LayerNorm.
        norm_bias: [H] of LayerNorm.
        eps: added to the variance.
        dropout: probability in [0, 1].
        seed: int64, one element; the mask is `philox.keep_mask` of it.

    Returns:
        [T, H], dtype of x.

    Source: Devlin et al. 2019, appendix A.2; Ba et al. 2016, "Layer Normalization".
    """
    branch = x if bias is None else x + bias
    if dropout:
        kept = philox.keep_mask(seed, *x.shape, dropout)
        branch = torch.where(kept, branch * philox.scale(dropout), 0.0)
    return F.layer_norm(branch + residual, weight.shape, weight, norm_bias, eps)


def dropout_add_layer_norm_twice(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`dropout_add_layer_norm` under two names, one for each of its two uses."""
    output = dropout_add_layer_norm(*args, **kwargs)
    return output, output
