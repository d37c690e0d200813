"""What drives ds_bert's model in gpu/steps.py: DeepSpeed, or plain torch where there is none."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, parameters_to_vector
from transformers import BertConfig

from ds_bert.fp8.recipe import Fp8Recipe
from ds_bert.model import pretrained
from ds_bert.model.batch import Batch
from ds_bert.model.bert import BertForUnpaddedPreTraining
from ds_bert.optim.lamb import Lamb
from ds_bert.optim.optimizers import build_optimizer

ACCUMULATION = 4  # micro-batches of an optimizer step
SEED = 1
OPTIMIZER: dict[str, Any] = {"type": "Lamb", "params": {"lr": 1e-3, "weight_decay": 0.01}}


class PlainEngine:
    """What DeepSpeed's ZeRO does on one rank: bf16 weights, fp32 sums of gradients and masters.

    As there, the optimizer sees one flat tensor, so LAMB takes two launches for all of the model.
    """

    def __init__(self, module: torch.nn.Module, optimizer: Lamb):
        self.module, self.optimizer, self.count = module, optimizer, 0
        tensors = optimizer.param_groups[0]["params"]
        flat = parameters_to_vector(tensors).detach()
        self.weights = F.pad(flat, (0, flat.numel() % 2))
        self.gradient = torch.zeros_like(self.weights)
        start = 0
        for tensor in tensors:
            end = start + tensor.numel()
            tensor.data = self.weights[start:end].view_as(tensor)
            tensor.grad = self.gradient[start:end].view_as(tensor)
            start = end
        self.master = self.weights.float()
        self.master.grad = torch.zeros_like(self.master)
        optimizer.param_groups[0]["params"] = [self.master]
        optimizer.bind()

    def __call__(self, batch: Batch) -> Any:
        return self.module(batch)

    def backward(self, loss: Tensor) -> None:
        (loss / ACCUMULATION).backward()
        self.master.grad += self.gradient
        self.gradient.zero_()

    def step(self) -> None:
        self.count += 1
        if self.count % ACCUMULATION == 0:
            clip_grad_norm_([self.master], 1.0)
            self.optimizer.step()
            self.weights.copy_(self.master)
            self.master.grad.zero_()


def plain_engine(name: str, config: BertConfig, device: torch.device, fp8: bool) -> PlainEngine:
    torch.manual_seed(SEED)
    model = (
        pretrained.build_model(name, config, BertForUnpaddedPreTraining)
        .to(device, torch.bfloat16)
        .train()
    )
    print(
        "; ".join(model.prepare(device, torch.bfloat16, fp8=Fp8Recipe() if fp8 else None)),
        flush=True,
    )
    return PlainEngine(model, build_optimizer(model, OPTIMIZER))


def deepspeed_engine(name: str, dataset: Path, length: int, output: Path, fp8: bool) -> Any:
    """The engine that ds_bert/train.py would train with."""
    from ds_bert import distributed
    from ds_bert.config import TrainingConfig
    from ds_bert.training.plan import make_plan
    from ds_bert.training.run import build_engine

    device = distributed.setup()
    config = TrainingConfig(
        model=name, train_data=str(dataset), validation_data="", output_dir=str(output),
        max_seq_length=length, lr_scheduler_type="constant", warmup_steps=0, keep_checkpoints=2,
        seed=SEED, fp8="delayed" if fp8 else "off",
    )  # fmt: skip
    recipe = {
        "train_batch_size": ACCUMULATION,  # the engine takes micro-batches of any size
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": True},
        "optimizer": OPTIMIZER,
    }
    engine = build_engine(make_plan(config, recipe), device)[0]
    engine.train()
    return engine
