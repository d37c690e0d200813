"""Whether stock transformers computes from an exported folder what our own model computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining
from transformers.utils import logging

from ds_bert.dataset.store import TokenStore
from ds_bert.errors import CheckpointError
from ds_bert.evaluation.loop import EVALUATION_SEED
from ds_bert.exporting.source import ExportSource
from ds_bert.model.batch import SEQUENCES, Batch, make_batch
from ds_bert.model.pretrained import load_model
from ds_bert.tokenizer.vocabulary import Vocabulary

TOLERANCE = 1e-4  # of an output's largest value: fp32 is added up in another order
_ROWS = 1000  # the first of the data set: two of them are compared
HIDDEN, TOKEN_LOGITS, PAIR_LOGITS = (
    "last_hidden_state",
    "prediction_logits",
    "seq_relationship_logits",
)
Outputs = dict[str, Tensor]


class Difference(NamedTuple):
    """How far one output of one program is from that of our model.

    Attributes:
        program: that computes it.
        output: its name in transformers.
        largest: absolute difference of any number.
        scale: largest absolute value of ours.
    """

    program: str
    output: str
    largest: float
    scale: float


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and no tables of transformers inside: what is missing is judged here."""
    was_on, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if was_on:
            logging.enable_progress_bar()


def sample(source: ExportSource) -> Batch:
    """Two sequences, a long and a short one: of the data set, or random where none is in reach."""
    store = source.store
    lengths = [] if store is None else [n for n in store.sequence_lengths if n <= source.limit]
    if store is None or not lengths:
        return _random_batch(source.vocabulary, source.limit)
    return _stored_batch(store, max(lengths))


def _stored_batch(store: TokenStore, length: int) -> Batch:
    table = store.instances(length)
    rows = table.rows[:_ROWS]
    lengths = rows["a_length"].astype(np.int64) + rows["b_length"]
    indices = np.array([lengths.argmax(), lengths.argmin()])  # of two lengths, so one is padded
    return make_batch(table, indices, np.zeros_like(indices), EVALUATION_SEED)


def _random_batch(vocabulary: Vocabulary, length: int) -> Batch:
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    lengths = [length, max(2, length // 3)]
    places = torch.cat([torch.arange(length) for length in lengths])
    ids = torch.randint(vocabulary.size, (sum(lengths),), generator=generator)
    none = torch.empty(0, dtype=torch.int64)
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    segments = torch.cat([(torch.arange(length) > length // 2).long() for length in lengths])
    return Batch(ids, segments, places, ends, none, none, none, lengths)


@torch.no_grad()
def own_outputs(source: ExportSource, batch: Batch) -> Outputs:
    """What our model computes, for all tokens [T, ...] and sequences [B, ...] of a batch."""
    model, _ = load_model(source.folder, source.model_class)
    model.prepare(torch.device("cpu"), torch.float32)
    model.eval()
    hidden = model.encode(batch)[: batch.num_tokens]
    outputs = {HIDDEN: hidden, TOKEN_LOGITS: model.cls.predictions(hidden)}
    if SEQUENCES in model.losses.values():
        first = hidden.index_select(0, batch.cu_seqlens[: batch.num_sequences])
        outputs[PAIR_LOGITS] = model.cls.seq_relationship(model.bert.pooler(first[:, None]))
    return outputs


def padded(batch: Batch) -> dict[str, Tensor]:
    """The batch as stock transformers and ONNX take it, int64 [B, longest]."""
    parts = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids}
    parts["attention_mask"] = torch.ones_like(batch.input_ids)
    split = {name: part.long().split(batch.sequence_lengths) for name, part in parts.items()}
    return {name: pad_sequence(part, batch_first=True) for name, part in split.items()}


@torch.no_grad()
def stock_outputs(auto_class: Any, folder: Path, batch: Batch, has_pooler: bool) -> Outputs:
    """What a class of transformers computes from a folder, in the form of `own_outputs`.

    Raises:
        CheckpointError: the folder cannot be loaded, or weights are missing in it.
    """
    model = _load_stock(auto_class, folder, has_pooler)
    inputs = padded(batch)
    found = model.eval()(**inputs, output_hidden_states=True)
    tokens = {HIDDEN: found.hidden_states[-1]}
    logits = found.get("prediction_logits", found.get("logits"))
    if logits is not None:
        tokens[TOKEN_LOGITS] = logits
    is_token = inputs["attention_mask"].bool()
    outputs = {name: value[is_token] for name, value in tokens.items()}
    if has_pooler and PAIR_LOGITS in found:
        outputs[PAIR_LOGITS] = found[PAIR_LOGITS]
    return outputs


def _load_stock(auto_class: Any, folder: Path, has_pooler: bool) -> Any:
    try:
        model, info = auto_class.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:  # safetensors, JSON and OS errors share no base class
        raise CheckpointError(f"{auto_class.__name__} cannot load the export ({error})") from None
    missing = {name for name in info["missing_keys"] if has_pooler or "pooler" not in name}
    if wrong := sorted(missing | {str(key) for key in info["mismatched_keys"]}):
        raise CheckpointError(
            f"{auto_class.__name__} finds {len(wrong)} weights missing or of another shape in the "
            f"export (first: {wrong[0]})"
        )
    return model


def compare_with_stock(folder: Path, own: Outputs, batch: Batch) -> list[Difference]:
    """Differences of stock transformers on an exported folder to our own model.

    Args:
        folder: the export.
        own: see `own_outputs`.
        batch: what `own` was computed of.

    Raises:
        CheckpointError: a class cannot load it, or computes something else.
    """
    has_pooler = PAIR_LOGITS in own
    classes = [AutoModelForPreTraining] * has_pooler + [AutoModelForMaskedLM, AutoModel]
    found = []
    for auto_class in classes:
        outputs = stock_outputs(auto_class, folder, batch, has_pooler)
        found += differences(auto_class.__name__, own, outputs)
    return require_same(found)


def differences(program: str, own: Outputs, theirs: Outputs) -> list[Difference]:
    """The differences of all outputs that a program has."""
    return [
        Difference(
            program,
            name,
            float((own[name] - value).abs().max()),
            float(own[name].abs().max()),
        )
        for name, value in theirs.items()
    ]


def require_same(found: list[Difference]) -> list[Difference]:
    """Refuse differences above the tolerance, and what is no number.

    Raises:
        CheckpointError: names the largest.
    """
    for program, output, largest, scale in found:
        if not largest <= TOLERANCE * scale:
            raise CheckpointError(
                f"{program} computes another {output} from the export than ds_bert from its "
                f"checkpoint: found a difference of {largest:.2g}, expected at most "
                f"{TOLERANCE * scale:.2g}; nothing was written"
            )
    return found
