"""BertForPreTraining on unpadded batches: stock modules and parameter names, own forward.

The sequences of a micro-batch stand one after the other in one row of tokens. Attention never
looks across a sequence; the masked-LM head sees only the positions that have a label.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from ds_bert_kernels.dispatch import implementation
from ds_bert_kernels.linear import linear
from torch import Tensor
from transformers import BertForPreTraining

from ds_bert.model.attention import choose_attention
from ds_bert.model.dropout import replace_dropout
from ds_bert.model.encoder import Encoder
from ds_bert.model.fp8 import fp8_linear


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
        self._encode = Encoder()
        replace_dropout(self)

    def prepare(
        self,
        device: torch.device,
        dtype: torch.dtype,
        compile_layers: bool | None = None,
        fp8: bool = False,
    ) -> list[str]:
        """Choose how the encoder runs on a device.

        Args:
            device: where the model will be.
            dtype: of its activations.
            compile_layers: fuse with torch.compile; None: on CUDA.
            fp8: run the layers' matrix products in fp8; see `ds_bert.model.fp8.check_fp8`.

        Returns:
            what was chosen, in words, then why other attention kernels were not.
        """
        heads, size = self.config.num_attention_heads, self.config.hidden_size
        attention, refused = choose_attention(device, dtype, heads, size // heads)
        compiled = device.type == "cuda" if compile_layers is None else compile_layers
        self._encode = Encoder(attention, fp8_linear if fp8 else linear, compiled)
        chosen = [attention.__name__, *["compiled layers"] * compiled, *["fp8"] * fp8]
        return [", ".join(chosen), *refused]

    def forward(self, batch) -> LossSums:  # type: ignore[override]
        """Masked-LM and next-sentence losses of one batch.

        Args:
            batch: a `ds_bert.model.batch.Batch`: B sequences, T tokens, M masked positions.

        Returns:
            sums over the M masked tokens and the B sequences; divide by global counts.

        Source: Devlin et al. 2019, section 3.1; the pooler reads each sequence's own [CLS].
        """
        hidden = self._encode(self.bert, batch)
        head = self.cls.predictions
        masked = head.transform(hidden.index_select(0, batch.masked_lm_positions))
        operands = _autocast(masked, head.decoder.weight, head.decoder.bias)
        kernel = implementation("masked_lm_head", operands[0])
        masked_lm_sum, masked_lm_correct = kernel.masked_lm_loss(*operands, batch.masked_lm_labels)
        first_tokens = hidden.index_select(0, batch.cu_seqlens[: batch.num_sequences])
        logits = self.cls.seq_relationship(self.bert.pooler(first_tokens[:, None])).float()
        labels = batch.next_sentence_labels
        next_sentence_sum = F.cross_entropy(logits, labels, reduction="sum")
        next_sentence_correct = (logits.argmax(-1) == labels).sum()
        return LossSums(masked_lm_sum, next_sentence_sum, masked_lm_correct, next_sentence_correct)


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The operands that torch.autocast would give to a matrix product; kernels do not ask it."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)
