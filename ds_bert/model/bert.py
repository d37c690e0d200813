"""BERT on unpadded batches, one class per objective: stock modules and names, own forward.

The sequences of a micro-batch stand one after the other in one row of tokens. Attention never
looks across a sequence; the masked-LM head sees only the positions that have a label.

A class says what its objective needs (`objective`, `losses`) and returns its losses as named sums.
Trainer, log, metrics and evaluation take whatever names there are.
"""

from collections.abc import Callable, Collection
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from ds_bert_kernels.dispatch import implementation
from ds_bert_kernels.linear import linear
from torch import Tensor
from transformers import BertForMaskedLM, BertForPreTraining, BertPreTrainedModel

from ds_bert.dataset.options import MLM, MLM_NSP, MLM_SOP
from ds_bert.fp8.layers import Fp8Layers
from ds_bert.fp8.recipe import Fp8Recipe
from ds_bert.model.attention import choose_attention
from ds_bert.model.batch import MASKED_TOKENS, SEQUENCES, Batch
from ds_bert.model.dropout import replace_dropout
from ds_bert.model.elementwise import PLAIN, Elementwise
from ds_bert.model.elementwise_choice import choose_elementwise
from ds_bert.model.encoder import Encoder
from ds_bert.model.flops import training_flops


class LossSum(NamedTuple):
    """One loss of a batch, ready to be added up over batches and ranks.

    Attributes:
        loss: fp32 scalar, summed over the items that the loss is about, in nats.
        correct: int64 scalar, number of items that were guessed right.
    """

    loss: Tensor
    correct: Tensor


class Scores(NamedTuple):
    """What a loss is the cross-entropy of, item by item.

    Attributes:
        logits: fp32 [N, C], of N masked tokens or sequences.
        labels: int64 [N].
    """

    logits: Tensor
    labels: Tensor

    def losses(self) -> LossSum:
        """The loss of each item, and whether it was guessed right; [N] both."""
        loss = F.cross_entropy(self.logits, self.labels, reduction="none")
        return LossSum(loss, self.logits.argmax(-1) == self.labels)


# A product of fewer than 12 rows goes another way on a CPU, and ends with other last bits.
_MIN_ROWS = 16
NO_FP8 = "no fp8"  # among kernels: it was asked for and given up
_ROWS_AT_ONCE = 4096  # of logits that are left apart: half a gigabyte


class UnpaddedBert(BertPreTrainedModel):
    """What the models of all objectives share; comes before a stock class among the bases.

    Parameters, their names and their initialisation are those of the stock class.

    Attributes:
        objective: its name in recipes.
        instances: the objective of preprocessing that makes its data.
        stock: the class of transformers that it is trained and exported as.
        losses: for each loss the count that its sum is divided by, see `Batch.counts`.
        fp8: of layers in fp8, what they keep from step to step; None: there are none.
        kernels: names of what was chosen by trial.
    """

    objective: ClassVar[str]
    instances: ClassVar[str]
    stock: ClassVar[type[BertPreTrainedModel]]
    losses: ClassVar[dict[str, str]]
    bert: Any
    cls: Any
    fp8: Fp8Layers | None = None
    kernels: tuple[str, ...] = ()
    _by_item = False  # whether losses are left apart: see `each`

    def __init__(self, config):
        super().__init__(config)
        self._encode = Encoder()
        replace_dropout(self)

    def prepare(
        self,
        device: torch.device,
        dtype: torch.dtype,
        compile_layers: bool | None = None,
        fp8: Fp8Recipe | None = None,
        fused: bool = True,
        only: Collection[str] | None = None,
    ) -> list[str]:
        """Choose how the encoder runs on a device.

        Args:
            device: where the model will be.
            dtype: of its activations.
            compile_layers: fuse with torch.compile; None: on CUDA.
            fp8: run the layers' matrix products in fp8; see `ds_bert.fp8.recipe.check_fp8`.
            fused: try fused kernels on CUDA. They pass by the modules, and so by hooks on them.
            only: `kernels` of a model that was prepared before: the same again, if they are right.

        Returns:
            what was chosen, in words, then why other kernels were not.
        """
        heads, size = self.config.num_attention_heads, self.config.hidden_size
        attention, refused = choose_attention(device, dtype, heads, size // heads, only)
        compiled = device.type == "cuda" if compile_layers is None else compile_layers
        tried: tuple[Elementwise, list[str]] = (PLAIN, [])
        if fused:
            tried = choose_elementwise(device, dtype, self.config, compiled, only)
        elementwise, slow = tried
        given_up = [NO_FP8] if only is not None and NO_FP8 in only else []
        fp8 = None if given_up else fp8
        self.kernels = (attention.__name__, *elementwise.names(), *given_up)
        self.fp8 = None if fp8 is None else Fp8Layers(fp8, self.config, device)
        self._encode = Encoder(attention, linear, compiled, elementwise, self.fp8)
        chosen = [attention.__name__, *["compiled layers"] * compiled]
        if fp8 is not None:
            chosen.append(fp8.describe(self.config.num_hidden_layers))
        return [", ".join([*chosen, *elementwise.names()]), *refused, *slow]

    def encode(self, batch: Batch) -> Tensor:
        """Hidden states [T, H] after the last layer, of the T tokens of a batch."""
        return self._encode(self.bert, batch)

    def flops(self, batch: Batch) -> int:
        """Operations of forward and backward over a batch; see `ds_bert.model.flops`."""
        pools = SEQUENCES in self.losses.values()
        lengths, num_masked = batch.sequence_lengths, batch.num_masked_tokens
        return training_flops(self.config, lengths, num_masked, pools)

    def each(self, batch: Batch) -> dict[str, LossSum]:
        """The losses of `forward` item by item, not summed: for evaluation, not for training.

        On a CPU an item's loss is the same bits in any batch, for any number of threads.

        Args:
            batch: B sequences with M masked positions.

        Returns:
            of each loss fp32 [M or B], and bool [M or B], whether the item was guessed right.
        """
        self._by_item = True
        try:
            return self(batch.padded(_MIN_ROWS))
        finally:
            self._by_item = False

    def masked_lm_scores(self, batch: Batch) -> Scores:
        """Logits [M, V] and labels of the masked tokens; as with `each`, the same in any batch."""
        hidden = self._encode(self.bert, batch.padded(_MIN_ROWS))
        places, labels = batch.masked_lm_positions, batch.masked_lm_labels
        return self._scores(self._token_logits, hidden, places, labels)

    def _scores(
        self, logits: Callable[[Tensor], Tensor], hidden: Tensor, places: Tensor, labels: Tensor
    ) -> Scores:
        """What a head makes of some rows of the hidden states [T, H]."""
        rows = F.pad(places, (0, max(0, _MIN_ROWS - len(places))))
        return Scores(logits(hidden.index_select(0, rows))[: len(places)].float(), labels)

    def _token_logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] of hidden states [N, H]."""
        head = self.cls.predictions
        return linear(head.transform(hidden), head.decoder.weight, head.decoder.bias)

    def _masked_lm(self, hidden: Tensor, batch: Batch) -> LossSum:
        """Masked-LM loss of hidden states [T, H]; Devlin et al. 2019, section 3.1, task 1."""
        if self._by_item:
            parts = zip(
                batch.masked_lm_positions.split(_ROWS_AT_ONCE),
                batch.masked_lm_labels.split(_ROWS_AT_ONCE),
                strict=True,
            )
            found = (self._scores(self._token_logits, hidden, *part).losses() for part in parts)
            return LossSum(*map(torch.cat, zip(*found, strict=True)))
        head = self.cls.predictions
        masked = head.transform(hidden.index_select(0, batch.masked_lm_positions))
        operands = _autocast(masked, head.decoder.weight, head.decoder.bias)
        kernel = implementation("masked_lm_head", operands[0])
        return LossSum(*kernel.masked_lm_loss(*operands, batch.masked_lm_labels))


class BertForUnpaddedPreTraining(UnpaddedBert, BertForPreTraining):
    """Masked-LM and next-sentence prediction, as BERT was trained."""

    objective = instances = MLM_NSP
    stock = BertForPreTraining
    losses: ClassVar[dict[str, str]] = {"mlm": MASKED_TOKENS, "nsp": SEQUENCES}

    def forward(self, batch: Batch) -> dict[str, LossSum]:  # type: ignore[override]
        """Both losses of one batch.

        Args:
            batch: B sequences of two segments with T tokens and M masked positions.

        Returns:
            "mlm", summed over the M masked tokens, and "nsp", over the B sequences; divide by
            global counts.

        Source: Devlin et al. 2019, section 3.1; the pooler reads each sequence's own [CLS].
        """
        hidden = self._encode(self.bert, batch)
        return {"mlm": self._masked_lm(hidden, batch), "nsp": self._pair(hidden, batch)}

    def _pair_logits(self, first_tokens: Tensor) -> Tensor:
        """Logits [N, 2] of the hidden states [N, H] of each sequence's [CLS]."""
        return self.cls.seq_relationship(self.bert.pooler(first_tokens[:, None]))

    def _pair(self, hidden: Tensor, batch: Batch) -> LossSum:
        labels = batch.next_sentence_labels
        places = batch.cu_seqlens[: len(labels)]  # of a padded batch's too, without a label
        if self._by_item:
            return self._scores(self._pair_logits, hidden, places, labels).losses()
        first_tokens = hidden.index_select(0, places)
        logits = self._pair_logits(first_tokens).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return LossSum(loss, (logits.argmax(-1) == labels).sum())


class BertForUnpaddedSentenceOrder(BertForUnpaddedPreTraining):
    """Masked-LM and sentence order; the head is that of next-sentence prediction.

    Source: Lan et al. 2020, "ALBERT", section 3.1; label 1 is swapped, as in transformers' ALBERT.
    """

    objective = instances = MLM_SOP
    losses: ClassVar[dict[str, str]] = {"mlm": MASKED_TOKENS, "sop": SEQUENCES}

    def forward(self, batch: Batch) -> dict[str, LossSum]:  # type: ignore[override]
        """Both losses of one batch, "mlm" and "sop", as those of the base class."""
        hidden = self._encode(self.bert, batch)
        return {"mlm": self._masked_lm(hidden, batch), "sop": self._pair(hidden, batch)}


class BertForUnpaddedMaskedLM(UnpaddedBert, BertForMaskedLM):
    """Masked-LM alone, without a pooler; Liu et al. 2019, "RoBERTa"."""

    objective = instances = MLM
    stock = BertForMaskedLM
    losses: ClassVar[dict[str, str]] = {"mlm": MASKED_TOKENS}

    def forward(self, batch: Batch) -> dict[str, LossSum]:  # type: ignore[override]
        """The loss "mlm" of one batch, summed over its M masked tokens."""
        return {"mlm": self._masked_lm(self._encode(self.bert, batch), batch)}


# A new objective is a class like these and its place here.
OBJECTIVES: dict[str, type[UnpaddedBert]] = {
    model.objective: model
    for model in (
        BertForUnpaddedPreTraining,
        BertForUnpaddedSentenceOrder,
        BertForUnpaddedMaskedLM,
    )
}


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The operands that torch.autocast would give to a matrix product; kernels do not ask it."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)
