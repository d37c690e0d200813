"""The implementations that loss_curves.py compares: models, their losses, their optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from ds_bert_kernels.reference.philox import draw_seeds
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForPreTraining

from ds_bert.fp8.recipe import Fp8Recipe
from ds_bert.model.batch import Batch
from ds_bert.model.bert import BertForUnpaddedPreTraining
from ds_bert.model.elementwise import Elementwise
from ds_bert.model.encoder import Encoder
from ds_bert.optim.optimizers import build_optimizer
from ds_bert.tokenizer.vocabulary import Vocabulary

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
}
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.98), 0.01, 1.0
# The learning rate is set at every step.
LAMB = {"type": "Lamb", "params": {"lr": 1.0, "betas": BETAS, "weight_decay": WEIGHT_DECAY}}
FP32, BF16 = torch.float32, torch.bfloat16
KERNELS, TWINS = "ds_bert_kernels", "ds_bert_kernels.reference"


class Arm(NamedTuple):
    """One implementation.

    Attributes:
        name: in the results.
        dtype: of the model; its fp32 master weights are beside it.
        ours: ds_bert's unpadded model, else stock transformers on padded batches.
        fp8: how the layers' matrix products run in fp8; None: they do not.
        flip: the sequences of each batch in the other order.
        package: whose kernels are taken, all of them, on any device; "": the model chooses.
    """

    name: str
    dtype: torch.dtype
    ours: bool = False
    fp8: Fp8Recipe | None = None
    flip: bool = False
    package: str = ""


ARMS = (
    Arm("plain fp32", FP32),
    Arm("plain fp32, reversed", FP32, flip=True),
    Arm("ours fp32", FP32, ours=True),
    Arm("plain bf16", BF16),
    Arm("plain bf16, reversed", BF16, flip=True),
    Arm("ours bf16", BF16, ours=True),
    Arm("ours fp8", BF16, ours=True, fp8=Fp8Recipe()),
)


class Models(NamedTuple):
    """Two copies of the same weights.

    Attributes:
        masters: a stock model in fp32, for the optimizer.
        working: the arm's model, for losses and gradients.
        runs_with: how the working model computes, in words.
    """

    masters: nn.Module
    working: nn.Module
    runs_with: str


def make_models(
    arm: Arm,
    vocabulary: Vocabulary,
    seed: int,
    dropout: float,
    device: torch.device,
    **sizes: int,
) -> Models:
    """The models of an arm; the weights depend on the seed only."""
    config = BertConfig(
        **SIZES | sizes,
        vocab_size=vocabulary.size,
        pad_token_id=vocabulary.pad_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    masters = BertForPreTraining(config)
    working, runs_with = deepcopy(masters), "stock transformers, eager attention"
    if arm.ours:
        if device.type == "cuda":
            torch.compiler.reset()  # the arms' dtypes would add up to the limit of recompilations
        working = BertForUnpaddedPreTraining(deepcopy(config))
        working.load_state_dict(masters.state_dict())
        runs_with = working.prepare(device, arm.dtype, fp8=arm.fp8)[0]
    if arm.package:
        working._encode, runs_with = encoder_of(arm.package), f"all of {arm.package}"
    return Models(masters.to(device), working.to(device, arm.dtype).train(), runs_with)


def encoder_of(package: str) -> Encoder:
    """The layers as fused kernels run them, or their twins, untried."""
    names = ("attention", "dropout_add_norm", "bias_gelu", "embeddings")
    attention, norms, gelus, embeddings = (import_module(f"{package}.{name}") for name in names)

    def attend(qkv: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float) -> Tensor:
        seed = draw_seeds(1, qkv.device) if dropout else None
        return attention.varlen_attention(qkv, cu_seqlens, max_length, dropout, seed)

    return Encoder(attend, elementwise=Elementwise(norms, gelus.bias_gelu, embeddings.embed))


@contextmanager
def kernels_of(arm: Arm) -> Iterator[None]:
    """Head and LAMB of the arm's package; with stock models LAMB in plain torch, on CUDA too."""
    package = arm.package or ("" if arm.ours else TWINS)
    if not package:
        yield
        return

    def implementation(kernel: str, _: Tensor) -> object:
        return import_module(f"{package}.{kernel}")

    with (
        mock.patch("ds_bert.model.bert.implementation", implementation),
        mock.patch("ds_bert.optim.lamb.implementation", implementation),
    ):
        yield


def padded(batch: Batch) -> dict[str, Tensor]:
    """The batch as stock transformers takes it."""
    labels = torch.full_like(batch.input_ids, -100, dtype=torch.int64)
    labels[batch.masked_lm_positions] = batch.masked_lm_labels
    columns = {
        "input_ids": (batch.input_ids.long(), 0),
        "token_type_ids": (batch.token_type_ids.long(), 0),
        "attention_mask": (torch.ones_like(labels), 0),
        "labels": (labels, -100),
    }
    return {
        name: pad_sequence(part.split(batch.sequence_lengths), True, padding)
        for name, (part, padding) in columns.items()
    } | {"next_sentence_label": batch.next_sentence_labels}


def plain_losses(model: nn.Module, batch: Batch, flip: bool) -> Tensor:
    """Masked-LM and next-sentence loss; the softmax is taken in fp32, as in ours."""
    rows = padded(batch)
    if flip:
        rows = {name: part.flip(0) for name, part in rows.items()}
    labels, next_sentence = rows.pop("labels").flatten(), rows.pop("next_sentence_label")
    output = model(**rows)
    logits = output.prediction_logits.flatten(0, 1).float()
    masked_lm = F.cross_entropy(logits, labels, ignore_index=-100)
    pairs = F.cross_entropy(output.seq_relationship_logits.float(), next_sentence)
    return torch.stack([masked_lm, pairs])


def our_losses(model: nn.Module, batch: Batch) -> Tensor:
    """As `plain_losses`."""
    sums = model(batch)
    masked_lm = sums["mlm"].loss / len(batch.masked_lm_labels)
    return torch.stack([masked_lm, sums["nsp"].loss / batch.num_sequences])


def losses_of(arm: Arm, model: nn.Module, batch: Batch) -> Tensor:
    """Masked-LM and next-sentence loss, in nats, fp32 [2]."""
    return our_losses(model, batch) if arm.ours else plain_losses(model, batch, arm.flip)


class MasterWeights:
    """LAMB on fp32 weights, of which the model has a copy in its own precision."""

    def __init__(self, models: Models):
        self.fp8 = getattr(models.working, "fp8", None)
        self.masters = list(models.masters.parameters())
        self.copies = list(models.working.parameters())
        self.optimizer = build_optimizer(models.masters, LAMB)

    def step(self, learning_rate: float) -> None:
        for master, copy in zip(self.masters, self.copies, strict=True):
            assert copy.grad is not None
            master.grad, copy.grad = copy.grad.float(), None
        nn.utils.clip_grad_norm_(self.masters, CLIP)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        with torch.no_grad():
            self.optimizer.step()
            torch._foreach_copy_(self.copies, self.masters)
        if self.fp8 is not None:
            self.fp8.scales.finish_step()
