"""Plain-torch twin of BERT's embeddings: three tables, LayerNorm, dropout."""

import torch
import torch.nn.functional as F
from ds_bert_kernels.reference import philox
from torch import Tensor


def embed(
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    words: Tensor,
    types: Tensor,
    positions: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout: float,
    seed: Tensor,
    padding_idx: int = -1,
) -> Tensor:
    """dropout(layer_norm(words[input_ids] + types[token_type_ids] + positions[position_ids])).

    Args:
        input_ids: int64 [T]; T may be 0.
        token_type_ids: int64 [T].
        position_ids: int64 [T].
        words: [V, H], floating point.
        types: [1 or 2, H], dtype of words.
        positions: [P, H], dtype of words.
        weight: [H] of LayerNorm.
        bias: [H] of LayerNorm.
        eps: added to the variance.
        dropout: probability in [0, 1].
        seed: int64, one element; the mask is `philox.keep_mask` of it.
        padding_idx: row of `words` that has no gradient; -1 for none.

    Returns:
        [T, H], dtype of words.

    Source: Devlin et al. 2019, figure 2.
    """
    padding = None if padding_idx < 0 else padding_idx
    total = F.embedding(input_ids, words, padding) + F.embedding(token_type_ids, types)
    total = total + F.embedding(position_ids, positions)
    output = F.layer_norm(total, weight.shape, weight, bias, eps)
    if dropout:
        kept = philox.keep_mask(seed, *output.shape, dropout)
        output = torch.where(kept, output * philox.scale(dropout), 0.0)
    return output
