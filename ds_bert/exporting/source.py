"""What is exported: the folder of a model, and what is known of the run that it comes from."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import BertConfig

from ds_bert import files
from ds_bert.checkpoint.facts import EMA_DECAY
from ds_bert.checkpoint.folder import Checkpoint, run_of
from ds_bert.checkpoint.manifest import read_manifest
from ds_bert.checkpoint.verify import find_model
from ds_bert.dataset.store import TokenStore
from ds_bert.errors import CheckpointError, ConfigurationError, DataError
from ds_bert.files import require_space
from ds_bert.model.bert import OBJECTIVES, UnpaddedBert
from ds_bert.model.pretrained import check_vocabulary, read_config_file
from ds_bert.tokenizer.vocabulary import Vocabulary
from ds_bert.weights.hugging_face import read_tokenizer, read_weights
from ds_bert.weights.zero_shards import read_average

WEIGHTS = "model.safetensors"
FILES = ("config.json", WEIGHTS, "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True)
class ExportSource:
    """A model as ds_bert has it.

    Attributes:
        path: as the user named it.
        folder: its Hugging Face folder; where it is a checkpoint's, all files are verified.
        step: of the checkpoint; None: not a checkpoint's.
        config: of the model.
        vocabulary: its tokens.
        do_lower_case: how its text was treated: as the data set says, else the tokenizer's files.
        record: content of the run's config.json; empty outside a run.
        rows: of the run's log, up to the step.
        stores: by "validation" and "train" the run's data sets, those that are in reach.
        ema_decay: of the moving average that its weights are; None: they are those of the step.
    """

    path: str
    folder: Path
    step: int | None
    config: BertConfig
    vocabulary: Vocabulary
    do_lower_case: bool
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    stores: dict[str, TokenStore] = field(default_factory=dict)
    ema_decay: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The "ds_bert" section of the run's recipe; empty outside a run."""
        return self.record.get("ds_bert", {})

    @property
    def store(self) -> TokenStore | None:
        """The data to check with."""
        return next(iter(self.stores.values()), None)

    @property
    def max_seq_length(self) -> int:
        """Tokens of the longest sequence that it was trained with, as far as that is known."""
        return self.settings.get("max_seq_length") or self.config.max_position_embeddings

    @property
    def limit(self) -> int:
        """Tokens of the longest sequence that it may be shown."""
        return min(self.max_seq_length, self.config.max_position_embeddings)

    @property
    def model_class(self) -> type[UnpaddedBert]:
        """The class that it was trained as."""
        return model_class(self.config, self.settings.get("objective"))


def model_class(config: BertConfig, objective: str | None = None) -> type[UnpaddedBert]:
    """Our class of a model that was exported.

    Args:
        config: names the stock class.
        objective: of its run, if known.

    Raises:
        CheckpointError: a class that nothing here is exported as.
    """
    architecture = (config.architectures or [""])[0]
    found = [kind for kind in OBJECTIVES.values() if kind.stock.__name__ == architecture]
    if not found:
        raise CheckpointError(
            f"found a model of the class {architecture or '(not named)'}, expected one with the "
            "head of an objective; ds-bert convert-model makes it of any BERT"
        )
    return next((kind for kind in found if kind.objective == objective), found[0])


def find_source(path: str, data: str | None = None) -> ExportSource:
    """Find a model, its run, and data that it can be checked with.

    Args:
        path: a run (its newest good checkpoint), a checkpoint, or a model folder of ds_bert.
        data: a data set of its vocabulary; None: those that the run names, if they are in reach.

    Raises:
        CheckpointError: nothing there, or nothing undamaged, or of another vocabulary than `data`.
        DataError: `data` is no data set.
    """
    name, checkpoint = find_model(path)
    folder = Path(name)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: no {', '.join(missing)}; expected a run, a checkpoint, or a model folder "
            "that ds_bert wrote (ds-bert convert-model makes one of any BERT)"
        )
    step = None if checkpoint is None else checkpoint.step
    run = None if checkpoint is None else run_of(checkpoint.folder)
    record = _read_record(run)
    vocabulary, casing = read_tokenizer(folder)
    assert vocabulary is not None  # vocab.txt is there
    if data is None:
        stores = _stores_of(record.get("ds_bert", {}), vocabulary)
    else:
        stores = {"validation": TokenStore.open(data)}
        check_vocabulary(str(folder), stores["validation"].vocabulary)
    own = next((store.do_lower_case for store in stores.values()), bool(casing))
    return ExportSource(
        path,
        folder,
        step,
        read_config_file(folder / "config.json"),
        vocabulary,
        own,
        record,
        [] if run is None or step is None else _read_rows(run, step),
        stores,
    )


def with_average(source: ExportSource, folder: Path) -> ExportSource:
    """The model with the moving average of its weights in their place, written into a new folder.

    Raises:
        CheckpointError: it is no checkpoint's, or that has no average.
        ConfigurationError: the disk is full.
    """
    found = source.folder.parent
    facts = None if source.step is None else read_manifest(found)
    checkpoint = None if facts is None else Checkpoint(found, facts)
    averages = read_average(source.path, checkpoint)
    names = read_weights(source.folder).keys()  # tied ones once
    require_space(folder, 4 * sum(tensor.numel() for tensor in averages.values()), "the model")
    shutil.copytree(source.folder, folder, ignore=shutil.ignore_patterns(WEIGHTS))
    weights = {name: averages[name].clone() for name in names}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert facts is not None  # or there was no average
    return replace(source, folder=folder, ema_decay=facts[EMA_DECAY])


def _read_record(run: Path | None) -> dict[str, Any]:
    """The run's config.json; a run without a readable one is exported all the same."""
    try:
        record = files.parse_json((run / "config.json").read_text("utf-8")) if run else {}
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _stores_of(settings: dict[str, Any], vocabulary: Vocabulary) -> dict[str, TokenStore]:
    """The run's data sets as far as they are in reach, and are still those of its vocabulary."""
    stores = {}
    for name in ("validation", "train"):
        try:
            stores[name] = TokenStore.open(settings.get(f"{name}_data") or "")
        except DataError:  # on another machine, or removed since
            continue
    return {n: store for n, store in stores.items() if store.vocabulary.sha256 == vocabulary.sha256}


def _read_rows(run: Path, step: int) -> list[dict[str, Any]]:
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [files.parse_json(line) for line in lines]
    except (OSError, ValueError):
        return []
    return [row for row in rows if row.get("step", step + 1) <= step]


def require_free(final: Path, overwrite: bool) -> None:
    """Refuse an output folder that is in use.

    Raises:
        ConfigurationError: something is there, and is no model that may be replaced.
    """
    is_empty = not final.exists() or (final.is_dir() and not any(final.iterdir()))
    if not is_empty and not (overwrite and (final / "config.json").is_file()):
        raise ConfigurationError(
            f"{final} exists; choose another --output_dir, or replace a model with --overwrite"
        )
