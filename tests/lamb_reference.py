"""A tiny BERT, its batches, and LAMB as a loop over tensors that shares no code with ds_bert."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 10
GLOBAL_BATCH = 8
SEQUENCE, VOCABULARY = 24, 499
LEARNING_RATE, WEIGHT_DECAY, CLIP = 5e-3, 0.01, 1.0

Weights = dict[str, Tensor]
Batch = dict[str, Tensor]


def build_model(seed: int = 0, dropout: float = 0.0, layers: int = 2) -> nn.Module:
    """BERT with sizes that divide by nothing, so that tensors straddle partitions."""
    from transformers import BertConfig, BertForPreTraining

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=36,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=77,
        max_position_embeddings=33,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForPreTraining(config)


def batches(steps: int = STEPS) -> Iterator[Batch]:
    """Global batches whose sequences have from 1 to 8 masked tokens."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        shape = (GLOBAL_BATCH, SEQUENCE)
        input_ids = torch.randint(5, VOCABULARY, shape, generator=generator)
        counts = torch.arange(1, GLOBAL_BATCH + 1)[:, None]
        masked = torch.rand(shape, generator=generator).argsort(dim=1) < counts
        labels = torch.where(masked, input_ids, -100)
        yield {
            "input_ids": torch.where(masked, 4, input_ids),
            "labels": labels,
            "next_sentence_label": torch.randint(0, 2, (GLOBAL_BATCH,), generator=generator),
        }


def train_reference(
    *,
    bias_correction: bool = True,
    min_trust_ratio: float = 0.0,
    max_trust_ratio: float = math.inf,
    adapt_without_decay: bool = True,
    pre_normalize_gradients: bool = False,
    clip: float = CLIP,
    seed: int = 0,
) -> tuple[Weights, Weights]:
    """LAMB as a loop over tensors (You et al. 2020, Algorithm 2), without any engine.

    The loss is transformers' own, over the whole batch at once. Returns the weights before and
    after `STEPS` steps. With both limits at 1 it is AdamW.
    """
    model = build_model(seed)
    before = _copy(model)
    beta1, beta2, eps = 0.9, 0.999, 1e-6
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in model.named_parameters()}
    for step, batch in enumerate(batches(), start=1):
        model.zero_grad()
        model(**batch).loss.backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
        scale = 1 / norm if pre_normalize_gradients else min(1.0, clip / (norm + 1e-6))
        for name, x in model.named_parameters():
            gradient = x.grad * scale
            decay = 0.0 if "LayerNorm" in name or name.endswith("bias") else WEIGHT_DECAY
            m, v = moments[name]
            m.copy_(beta1 * m + (1 - beta1) * gradient)
            v.copy_(beta2 * v + (1 - beta2) * gradient**2)
            m_hat = m / (1 - beta1**step) if bias_correction else m
            v_hat = v / (1 - beta2**step) if bias_correction else v
            with torch.no_grad():
                update = m_hat / (v_hat.sqrt() + eps) + decay * x
                ratio = 1.0
                if x.norm() > 0 and update.norm() > 0 and (decay or adapt_without_decay):
                    ratio = float(x.norm() / update.norm())
                    ratio = min(max(ratio, min_trust_ratio), max_trust_ratio)
                x -= LEARNING_RATE * ratio * update
    return before, _copy(model)


def _copy(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class OrdinaryLamb(torch.optim.Optimizer):
    """LAMB as a PyTorch user would write it: right over tensors, wrong over flat partitions."""

    def __init__(self, params: Any, lr: float):
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        beta1, beta2, eps = 0.9, 0.999, 1e-6
        for group in self.param_groups:
            for x in group["params"]:
                state = self.state[x]
                if not state:
                    state.update(step=0, m=torch.zeros_like(x), v=torch.zeros_like(x))
                state["step"] += 1
                m = state["m"].mul_(beta1).add_(x.grad, alpha=1 - beta1)
                v = state["v"].mul_(beta2).addcmul_(x.grad, x.grad, value=1 - beta2)
                m_hat = m / (1 - beta1 ** state["step"])
                v_hat = v / (1 - beta2 ** state["step"])
                update = m_hat / (v_hat.sqrt() + eps) + group["weight_decay"] * x
                ratio = x.norm() / update.norm() if x.norm() > 0 and update.norm() > 0 else 1.0
                x -= group["lr"] * ratio * update


def error(found: Weights, reference: tuple[Weights, Weights]) -> tuple[float, float]:
    """Norm of the difference relative to that of the total update, and its largest element."""
    before, after = reference
    difference = torch.cat([(found[name] - after[name]).flatten().double() for name in after])
    update = torch.cat([(before[name] - after[name]).flatten().double() for name in after])
    return float(difference.norm() / update.norm()), float(difference.abs().max())
