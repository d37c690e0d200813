"""The loss of every masked token and every sequence, the same for any batch size and ranks.

Sums are taken of the items of all ranks in one order, in fp64. On a CPU an item's own loss does not
depend on its batch either (`UnpaddedBert.each`), so whatever is computed here is the same bits.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ds_bert import distributed
from ds_bert.dataset.store import InstanceTable
from ds_bert.evaluation.bootstrap import Ratio, summed
from ds_bert.evaluation.loop import EVALUATION_SEED, batches_at, chosen_rows, evaluating
from ds_bert.evaluation.metrics import as_metrics
from ds_bert.model.batch import MASKED_TOKENS, SEQUENCES, Batch
from ds_bert.model.bert import LossSum, UnpaddedBert
from ds_bert.progress import Progress

MAX_UNITS = 1 << 16  # of what is drawn anew for intervals
Part = dict[str, dict[str, Any]]  # the arrays of `Items`, of some sequences: group -> name -> array


@dataclass(frozen=True)
class Items:
    """What was evaluated, in the order of the corpora and, in each, of `loop.batches_at`.

    Attributes:
        table: the instances.
        counts: for each loss what its items are, MASKED_TOKENS or SEQUENCES.
        sequences: of N sequences, int64 arrays [N]: "place" in the order, "row" of the table,
            "corpus", "length" with special tokens, "masked_tokens", "label".
        tokens: of their M masked tokens in a row, int64 arrays [M]: "position" in the sequence,
            "label", and "goes_on", 1 where the next token belongs to the same word.
        losses: of each loss, fp32 [M or N], in nats.
        correct: of each loss, bool [M or N], whether the likeliest class is the label.
    """

    table: InstanceTable
    counts: dict[str, str]
    sequences: dict[str, NDArray[np.int64]]
    tokens: dict[str, NDArray[np.int64]]
    losses: dict[str, NDArray[np.float32]]
    correct: dict[str, NDArray[np.bool_]]

    @cached_property
    def owners(self) -> dict[str, NDArray[np.int64]]:
        """The number of the sequence that each item belongs to, by what the items are."""
        numbers = np.arange(len(self.sequences["row"]))
        return {
            SEQUENCES: numbers,
            MASKED_TOKENS: np.repeat(numbers, self.sequences["masked_tokens"]),
        }

    @cached_property
    def num_documents(self) -> int:
        """How many documents the sequences begin in."""
        return len(np.unique(self._documents))

    @cached_property
    def documents(self) -> NDArray[np.int64]:
        """Of each sequence the document that it begins in; those are numbered without gaps.

        From MAX_UNITS on numbers are given again: so many groups of documents serve for intervals.
        """
        return np.unique(self._documents, return_inverse=True)[1] % MAX_UNITS

    @cached_property
    def _documents(self) -> NDArray[np.int64]:
        starts = self.table.rows["a_start"][self.sequences["row"]]
        offsets = self.table.store.documents.token_offsets
        return np.searchsorted(offsets, starts, side="right") - 1

    def metrics(self) -> dict[str, Any]:
        """Means by name, see `ds_bert.evaluation.metrics.MetricSums.over_ranks`."""
        names = [corpus.name for corpus in self.table.corpora]
        size = max(1, len(names))
        corpora = {of: self.sequences["corpus"][owner] for of, owner in self.owners.items()}
        columns = [
            np.bincount(corpora[self.counts[name]], values, size)
            for name in self.losses
            for values in (self.losses[name], self.correct[name])
        ]
        of_sequence = (None, self.sequences["masked_tokens"], self.sequences["length"])
        columns += [np.bincount(corpora[SEQUENCES], values, size) for values in of_sequence]
        return as_metrics(self.counts, names, np.stack(columns, axis=1).astype(np.float64))

    def ratios(self, chosen: Mapping[str, NDArray[np.bool_]] | None = None) -> dict[str, Ratio]:
        """NAME_loss and NAME_accuracy of each loss as sums over each document.

        Args:
            chosen: of the items that are counted, [M] or [N] by what they are; losses of other
                items are left out. None: all.
        """
        size, found = int(self.documents.max(initial=-1)) + 1, {}
        for name, of in self.counts.items():
            if chosen is not None and of not in chosen:
                continue
            mine = slice(None) if chosen is None else chosen[of]
            documents = self.documents[self.owners[of][mine]]
            number = np.bincount(documents, minlength=size).astype(np.float64)
            for figure, values in (("loss", self.losses), ("accuracy", self.correct)):
                total = summed(values[name][mine], documents, size)
                found[f"{name}_{figure}"] = Ratio(total, number)
        return found

    @classmethod
    def in_order(cls, table: InstanceTable, counts: dict[str, str], parts: list[Part]) -> Self:
        """All ranks' items in one order."""
        found = _joined(parts)
        places, num_masked = (found["sequences"][key] for key in ("place", "masked_tokens"))
        order = {
            SEQUENCES: np.argsort(places),
            MASKED_TOKENS: np.argsort(np.repeat(places, num_masked), kind="stable"),
        }
        of = {"sequences": SEQUENCES, "tokens": MASKED_TOKENS}
        groups = {
            group: {
                name: values[order[of.get(group) or counts[name]]]
                for name, values in arrays.items()
            }
            for group, arrays in found.items()
        }
        return cls(table, counts, **groups)


@torch.no_grad()
def evaluate_items(
    model: UnpaddedBert,
    table: InstanceTable,
    device: torch.device,
    batch_size: int,
    max_sequences: int = 0,
) -> Items:
    """Evaluate with fixed masks and without dropout, shared out over the ranks (a collective).

    Args:
        model: on `device`; its training mode is restored afterwards.
        table: instances of one sequence length.
        device: where the batches go.
        batch_size: sequences per forward pass and rank; changes nothing but the speed.
        max_sequences: evaluate on at most this many (always the same ones); 0: all.

    Returns:
        the items of all ranks, on every rank.
    """
    chosen = chosen_rows(table, max_sequences)
    rank, world_size = distributed.rank(), distributed.world_size()
    bounds = np.cumsum([0, *(number for _, number in chosen)])
    total = sum(len(range(rank, number, world_size)) for _, number in chosen)
    parts, done = list[Part](), 0
    with evaluating(model), Progress("evaluate") if rank == 0 else nullcontext() as told:
        for number, (corpus, num_sequences) in enumerate(chosen):
            places = np.arange(rank, num_sequences, world_size)
            batches = batches_at(table, corpus, places, batch_size, EVALUATION_SEED)
            for rows, batch in batches:
                known, places = bounds[number] + places[: len(rows)], places[len(rows) :]
                part = _known(table, batch, place=known, row=rows, corpus=number)
                parts.append(part | _losses(model.each(batch.to(device))))
                done += len(rows)
                if told is not None:
                    told.update(done / total, sequences=len(rows))
    return Items.in_order(table, dict(model.losses), distributed.gather(_joined(parts)))


def _losses(found: dict[str, LossSum]) -> Part:
    return {
        "losses": {name: each.loss for name, each in found.items()},
        "correct": {name: each.correct for name, each in found.items()},
    }


def _known(table: InstanceTable, batch: Batch, **given: Any) -> Part:
    """What is known of the sequences and masked tokens of a batch without a model."""
    positions, borders = batch.masked_lm_positions.numpy(), batch.cu_seqlens.numpy()
    labels, text = batch.masked_lm_labels.numpy(), batch.input_ids.numpy().copy()
    text[positions] = labels
    following = text.take(positions + 1, mode="clip")  # [SEP] after the last token of a segment
    return {
        "sequences": {
            **{key: np.broadcast_to(value, batch.num_sequences) for key, value in given.items()},
            "length": np.diff(borders).astype(np.int64),
            "masked_tokens": np.diff(np.searchsorted(positions, borders)),
            "label": batch.next_sentence_labels.numpy(),
        },
        "tokens": {
            "position": batch.position_ids.numpy()[positions].astype(np.int64),
            "label": labels,
            "goes_on": table.store.vocabulary.is_continuation[following].astype(np.int64),
        },
    }


def _joined(parts: list[Part]) -> Part:
    """Arrays of batches, or of ranks (those without a sequence have none), as one of each."""
    parts = [part for part in parts if part]
    return {
        group: {name: _joined_arrays([part[group][name] for part in parts]) for name in arrays}
        for group, arrays in (parts[0] if parts else {}).items()
    }


def _joined_arrays(arrays: list[Any]) -> NDArray:
    if isinstance(arrays[0], torch.Tensor):  # on the device until now: nothing waits for it
        return torch.cat(arrays).cpu().numpy()
    return np.concatenate(arrays)
