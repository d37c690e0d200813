"""BertForPreTraining on unpadded batches: stock modules and parameter names, own forward.

The sequences of a micro-batch stand one after the other in one row of tokens. Attention is
entered through transformers' AttentionInterface and never looks across a sequence; the masked-LM
head sees only the positions that have a label.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from ds_bert_kernels.reference import masked_lm_loss
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, BertForPreTraining

ATTENTION = "ds_bert_unpadded"


class LossSums(NamedTuple):
    """Sums over a batch, ready to be added up over batches and ranks.

    The losses are fp32 scalars in nats, the counts int64 scalars.
    """

    masked_lm_loss: Tensor
    next_sentence_loss: Tensor
    masked_lm_correct: Tensor
    next_sentence_correct: Tensor


class BertForUnpaddedPreTraining(BertForPreTraining):
    """`BertForPreTraining` whose forward takes an unpadded batch and returns loss sums.

    Parameters, their names and their initialisation are those of the parent class.
    """

    def __init__(self, config):
        super().__init__(config)
        self.set_attn_implementation(ATTENTION)

    def forward(self, batch) -> LossSums:  # type: ignore[override]
        """Masked-LM and next-sentence losses of one batch.

        Args:
            batch: a `ds_bert.batches.Batch` of B sequences with T tokens and M masked positions.

        Returns:
            sums over the M masked tokens and the B sequences; divide by global counts.

        Source: Devlin et al. 2019, section 3.1; the pooler reads each sequence's own [CLS].
        """
        hidden = self.bert(
            input_ids=batch.input_ids[None],
            token_type_ids=batch.token_type_ids[None],
            position_ids=batch.position_ids[None],
            sequence_lengths=batch.sequence_lengths,
        ).last_hidden_state[0]
        head = self.cls.predictions
        masked_lm_sum, masked_lm_correct = masked_lm_loss(
            head.transform(hidden[batch.masked_lm_positions]),
            head.decoder.weight,
            head.decoder.bias,
            batch.masked_lm_labels,
        )
        first_tokens = hidden[batch.cu_seqlens[:-1].long()]
        logits = self.cls.seq_relationship(self.bert.pooler(first_tokens[:, None])).float()
        labels = batch.next_sentence_labels
        next_sentence_sum = F.cross_entropy(logits, labels, reduction="sum")
        next_sentence_correct = (logits.argmax(-1) == labels).sum()
        return LossSums(masked_lm_sum, next_sentence_sum, masked_lm_correct, next_sentence_correct)


def unpadded_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sequence_lengths: list[int] | None = None,
    **_,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention within each sequence, one sequence after the other.

    Args:
        module: the calling attention module (not used).
        query: [1, heads, T, head size].
        key: as query.
        value: as query.
        attention_mask: not used, there is no padding.
        dropout: probability of dropping an attention weight.
        scaling: factor of the scores before the softmax.
        sequence_lengths: tokens of each sequence, summing to T; None: one sequence.

    Returns:
        [1, T, heads, head size], and no attention weights.
    """
    lengths = sequence_lengths or [query.shape[2]]
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        for q, k, v in parts
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, unpadded_attention)
AttentionMaskInterface.register(ATTENTION, lambda *args, **kwargs: None)
