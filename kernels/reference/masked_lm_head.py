"""Plain-torch twin of the masked-LM head's loss."""

import torch.nn.functional as F
from ds_bert_kernels.linear import linear
from torch import Tensor


def masked_lm_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Decoder of the masked-LM head with its cross-entropy, over positions already gathered.

    Args:
        hidden: [N, H] outputs of the head's transform; N may be 0.
        weight: [V, H] decoder weight, tied to the word embeddings.
        bias: [V] decoder bias.
        labels: [N] int64 vocabulary ids, or `ignore_index`.
        ignore_index: label of a position that counts for nothing.

    Returns:
        sum of the cross-entropies in nats (fp32 scalar, differentiable in hidden, weight and
        bias), and the number of positions whose largest logit is the label's (int64 scalar).
        The softmax is taken in fp32. Without a label the sum is 0 and so are its gradients.

    Source: Devlin et al. 2019, section 3.1, task 1.
    """
    logits = linear(hidden, weight, bias).float()
    loss_sum = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    hits = logits.detach().argmax(dim=-1) == labels
    return loss_sum, (hits & (labels != ignore_index)).sum()
