"""Who trains in gpu/steps.py: ds_bert, and Hugging Face's model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, cycle
from typing import Any, NamedTuple

import torch
from engines import ACCUMULATION, SEED
from huggingface_trainer import pad
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import BertConfig, BertForPreTraining

from ds_bert.dataset.store import InstanceTable
from ds_bert.model.batch import Batch
from ds_bert.training.batches import Step, TrainingBatches


class Work(NamedTuple):
    """One optimizer step that is ready to run, and what it works on."""

    run: Callable[[], Any]
    lengths: list[int]
    num_masked: int


class Ours:
    """Training steps of ds_bert."""

    def __init__(self, engine: Any, device: torch.device):
        self.engine, self.device = engine, device
        self.model, self.parts, self.engine_name = engine.module, 1, type(engine).__name__

    @contextmanager
    def works(self, table: InstanceTable, micro_batch_size: int) -> Iterator[Iterator[Work]]:
        """Endless steps, made in the background."""
        batches = TrainingBatches(
            table=table,
            train_batch_size=ACCUMULATION * micro_batch_size,
            micro_batch_size=micro_batch_size,
            rank=0,
            world_size=1,
            seed=SEED,
        )
        with batches.iterate(0) as steps:
            yield map(self._work, steps)

    def _work(self, step: Step) -> Work:
        lengths = chain.from_iterable(batch.sequence_lengths for batch in step.micro_batches)
        return Work(lambda: self._train(step), list(lengths), step.counts["masked_tokens"])

    def _train(self, step: Step) -> None:
        """As `ds_bert.training.trainer.Trainer` does."""
        for batch in step.micro_batches:
            sums = self.engine(batch.to(self.device))
            loss = sums["mlm"].loss / step.counts["masked_tokens"]
            loss = loss + sums["nsp"].loss / step.counts["sequences"]
            self.engine.backward(loss * ACCUMULATION)
            self.engine.step()
        if self.model.fp8 is not None:
            self.model.fp8.scales.finish_step()


class HuggingFace:
    """Steps of stock BertForPreTraining as the Trainer makes them with bf16: autocast, AdamW.

    Its batches are padded and on the device beforehand. A micro-batch that does not fit is cut;
    the optimizer steps after every micro-batch, which takes less than 1 % of the time.
    """

    NUM_BATCHES = 2
    engine_name = "torch"

    def __init__(self, config: BertConfig, device: torch.device, attention: str):
        torch.manual_seed(SEED)
        self.model = BertForPreTraining(config).to(device).train()
        self.model.set_attn_implementation(attention)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.device, self.parts = device, 1

    @contextmanager
    def works(self, table: InstanceTable, micro_batch_size: int) -> Iterator[Iterator[Work]]:
        batches = TrainingBatches(
            table=table,
            train_batch_size=self.NUM_BATCHES * micro_batch_size,
            micro_batch_size=micro_batch_size,
            rank=0,
            world_size=1,
            seed=SEED,
        )
        works = [self._work(batch, table) for batch in batches.step(0).micro_batches]
        self._fit(works[0])
        yield cycle(works)

    def _work(self, batch: Batch, table: InstanceTable) -> Work:
        rows = pad_batch(batch, table.max_seq_length, self.device)
        return Work(lambda: self._train(rows), batch.sequence_lengths, len(batch.masked_lm_labels))

    def _fit(self, work: Work) -> None:
        """Find the fewest parts that the memory can hold one at a time."""
        self.parts = 1
        while True:
            try:
                return work.run()
            except torch.OutOfMemoryError:
                self.parts *= 2
                if self.parts > len(work.lengths):
                    raise
            self.optimizer.zero_grad()
            torch.cuda.empty_cache()

    def _train(self, rows: dict[str, Tensor]) -> None:
        parts = zip(*(tensor.chunk(self.parts) for tensor in rows.values()), strict=True)
        for part in parts:
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = self.model(**dict(zip(rows, part, strict=True))).loss
            (loss / self.parts).backward()
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def pad_batch(batch: Batch, length: int, device: torch.device) -> dict[str, Tensor]:
    """The batch as stock transformers takes it, [B, length]."""
    rows = [pad(batch, row, length) for row in range(batch.num_sequences)]
    return {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
