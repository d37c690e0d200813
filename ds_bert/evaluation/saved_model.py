"""Evaluate a model on disk: find it, its data, check that they fit, report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ds_bert import distributed, files
from ds_bert.checkpoint.folder import run_of
from ds_bert.checkpoint.verify import find_model
from ds_bert.config import EMA, LAST
from ds_bert.dataset.options import MLM, MLM_NSP, MLM_SOP
from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.errors import CheckpointError, ConfigurationError, require
from ds_bert.evaluation import report
from ds_bert.evaluation.items import evaluate_items
from ds_bert.evaluation.pseudo_perplexity import score_sentences
from ds_bert.evaluation.samples import fill_masks
from ds_bert.limits.training import MAX_MICRO_BATCH
from ds_bert.model import pretrained
from ds_bert.model.bert import OBJECTIVES, UnpaddedBert
from ds_bert.weights.zero_shards import read_average

RUNS = Path("runs")
_OF_SENTENCES: dict[str, Callable[..., Any]] = {
    "pseudo_perplexity": score_sentences,
    "fill_mask": fill_masks,
}


def evaluate_path(
    path: str | None,
    data: str | None,
    max_seq_length: int | None,
    *,
    only_mlm: bool = False,
    batch_size: int = 32,
    max_sequences: int = 0,
    weights: str = LAST,
    compare: str | None = None,
    pseudo_perplexity: int = 0,
    fill_mask: int = 0,
) -> dict[str, Any]:
    """Metrics of a run, a checkpoint or a Hugging Face BERT on a data set, with intervals.

    Args:
        path: None means the newest run below `runs`.
        data: data set folder; None means the run's validation data, else data/validation.
        max_seq_length: tokens; None means the run's, else the longest in the data set.
        only_mlm: masked-LM metrics alone, also where the data would allow more.
        batch_size: sequences per forward pass and rank.
        max_sequences: evaluate on at most this many; 0: all.
        weights: "last", those of the last step, or "ema", their moving average (not of `compare`).
        compare: another run, checkpoint or Hugging Face BERT, evaluated on the same masks.
        pseudo_perplexity: compute it of so many sentences of the data set's text.
        fill_mask: show the guesses for a word in so many sentences.

    Returns:
        on every rank "checkpoint", "data", "max_seq_length", the record of
        `ds_bert.evaluation.report.figures`, under the names of the last two what `score_sentences`
        and `fill_masks` return, and under "compare" the record of the other model.

    Raises:
        ConfigurationError, DataError, CheckpointError: what does not fit, and what to do.
    """
    sentences = {"pseudo_perplexity": pseudo_perplexity, "fill_mask": fill_mask}
    _check_numbers(batch_size, max_sequences, sentences)
    device = distributed.setup()
    path = path or str(_newest_run())
    settings = _run_settings(Path(path))
    store = TokenStore.open(data or settings.get("validation_data") or "data/validation")
    length = max_seq_length or settings.get("max_seq_length") or max(store.sequence_lengths)
    table = store.instances(length)
    objective = MLM if only_mlm else _objective(settings.get("objective"), table, path)
    # Both are loaded first: what is wrong with one shows before the work on the other.
    names = [path] if compare is None else [path, compare]
    places = [find_model(name) for name in names]
    models = [_load(folder, table, OBJECTIVES[objective]) for folder, _ in places]
    if weights == EMA:
        averages = read_average(path, places[0][1])
        models[0].load_state_dict(averages, strict=False)  # perhaps without a head
    found = []
    while models:
        model = models.pop(0).to(device)
        model.prepare(device, model.dtype)
        items = evaluate_items(model, table, device, batch_size, max_sequences)
        more = {
            name: _OF_SENTENCES[name](model, table, device, batch_size, number)
            for name, number in sentences.items()
            if number
        }
        found.append((items, more))
    which = {"weights": weights} if weights != LAST else {}
    about = {"checkpoint": path, **which, "data": str(store.folder), "max_seq_length": length}
    return distributed.on_rank_0(lambda: about | report.as_record(found, names))


def _check_numbers(batch_size: int, max_sequences: int, sentences: dict[str, int]) -> None:
    is_size = 1 <= batch_size <= MAX_MICRO_BATCH
    require(is_size, "eval_batch_size", batch_size, f"from 1 to {MAX_MICRO_BATCH:,}")
    require(max_sequences >= 0, "max_eval_sequences", max_sequences, "0 (all) or more")
    for name, number in sentences.items():
        require(number >= 0, name, number, "a number of sentences, or 0")


def _objective(trained: str | None, table: InstanceTable, path: str) -> str:
    """What to evaluate: that of the run if the data are made for it, otherwise that of the data."""
    own = table.options.objective
    if trained is None or OBJECTIVES[trained].instances == own:
        return trained or own
    if {OBJECTIVES[trained].instances, own} == {MLM_NSP, MLM_SOP}:  # the head fits, its task not
        raise ConfigurationError(
            f"{path} was trained for {trained}, {table.store.folder} is made for {own}, which asks "
            "something else of pairs; evaluate on data of its own objective, or add --only_mlm"
        )
    return own


def _load(folder: str, table: InstanceTable, model_class: type[UnpaddedBert]) -> UnpaddedBert:
    vocabulary = table.store.vocabulary
    pretrained.read_model_config(folder, vocabulary, table.max_seq_length)
    pretrained.check_vocabulary(folder, vocabulary)
    model, missing_heads = pretrained.load_model(folder, model_class)
    if "cls.predictions" in missing_heads:
        raise CheckpointError(
            f"{folder} has no masked-LM head: found an encoder alone, as those for embeddings are, "
            "expected a model that guesses hidden words; name the one that it was made from, or "
            f"train a head on your text: ds-bert train --model {folder}"
        )
    if missing_heads:
        raise CheckpointError(f"{folder} has no next-sentence head; add --only_mlm")
    return model


def _newest_run() -> Path:
    latest = sorted(RUNS.glob("*/checkpoints/latest"), key=lambda path: path.stat().st_mtime)
    if not latest:
        raise ConfigurationError(
            f"no run found below {RUNS}/; name a run, a checkpoint or a Hugging Face folder with "
            "--checkpoint"
        )
    return latest[-1].parent.parent


def _run_settings(path: Path) -> dict[str, Any]:
    """The "ds_bert" section of the run that `path` belongs to; empty outside a run."""
    run = run_of(path)
    if run is None or not (run / "config.json").is_file():
        return {}
    return files.parse_json((run / "config.json").read_text(encoding="utf-8"))["ds_bert"]
