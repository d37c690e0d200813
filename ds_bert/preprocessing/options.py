"""What the user says about preprocessing, checked, with the defaults filled in."""

import os
from argparse import BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert.config import option
from ds_bert.dataset.commit import fingerprint
from ds_bert.dataset.options import MLM, MLM_NSP, MODES, OBJECTIVES, InstanceOptions, mask_fields
from ds_bert.errors import ConfigurationError, require
from ds_bert.text.blocks import BLOCK_BYTES
from ds_bert.text.inputs import TEXT_COLUMN, TextCorpus, find_corpora
from ds_bert.text.source import Input

DUPE_FACTOR = {"fast": 5, "exact": 10}
MLM_DUPE_FACTOR = 1  # copies would differ in nothing but which documents are cut shorter
SHORT_SEQ_PROB = dict.fromkeys(OBJECTIVES, 0.1) | {MLM: 0.0}
VALIDATION_FRACTION = {"fast": 0.01, "exact": 0.0}
ERRORS = ("strict", "ignore", "replace")
PREDICTIONS_PER_128 = 20
TRAIN, VALIDATION = "train", "validation"
FILES, INSTANCES, RUNNING = "files", "instances", "running"  # groups of flags


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """Options of preprocessing; every field but the last is also a flag (`commands.preprocess`).

    None stands for a default that depends on other options. `{default}` in a help text is the
    default of the field.

    Raises:
        ConfigurationError: a value has no meaning or contradicts another.
    """

    input_file: Sequence[str] = option(
        ("data/train.txt",),
        "files (text, .jsonl, .csv, .parquet; also .gz, .xz, .bz2, .zst), globs, folders, "
        "data sets of save_to_disk, hf:OWNER/NAME[:CONFIG[:SPLIT]] of the hub, https://, s3://, "
        "gs://, - for standard input; comma lists; NAME=INPUT[:WEIGHT] for several corpora; "
        "default {default}",
        group=FILES,
        metavar="FILE",
    )
    text_column: str = option(
        TEXT_COLUMN,
        "column of the text in tables and data sets; default {default}",
        group=FILES,
        metavar="NAME",
    )
    sentence_splitter: str | None = option(
        None,
        "split paragraphs into sentences by the rules of this language (en, de, zh, ...); "
        "default: each line is a sentence",
        group=FILES,
        metavar="LANGUAGE",
    )
    output_dir: str = option(
        "data/train", "default {default}", aliases=["--output_file"], group=FILES
    )
    vocab_file: str = option("data/vocab.txt", "default {default}", group=FILES)
    leave_out: str | None = option(
        None,
        "a file or folder in which no text is, though names of inputs may match it; default: the "
        "vocabulary",
        group=FILES,
        metavar="PATH",
    )
    validation_dir: str | None = option(
        None,
        f"default: beside the output folder, '{VALIDATION}' for a folder called {TRAIN}, "
        f"'NAME_{VALIDATION}' for another NAME",
        group=FILES,
    )
    validation_fraction: float | None = option(
        None,
        f"share of the documents for validation; default {VALIDATION_FRACTION['fast']}, "
        f"in exact mode {VALIDATION_FRACTION['exact']:g}",
        group=FILES,
        metavar="SHARE",
    )
    overwrite: bool = option(
        False, "replace an existing data set, also an unfinished one of other options", group=FILES
    )
    deduplicate: bool = option(
        False,
        "leave out documents that are nearly the same as an earlier one; they are counted always",
        group=FILES,
    )
    objective: str = option(
        MLM_NSP,
        "what a model will be trained for; mlm+nsp: pairs of segments, mlm+sop: neighbours in "
        "either order, mlm (alone): whole sentences of one document; default {default}",
        group=INSTANCES,
        choices=OBJECTIVES,
    )
    mode: str = option(
        "fast",
        "exact: bit for bit as Google's create_pretraining_data.py; default {default}",
        group=INSTANCES,
        choices=MODES,
    )
    do_lower_case: bool = option(
        True,
        "lower-case the text and strip accents (default)",
        group=INSTANCES,
        action=BooleanOptionalAction,
    )
    do_whole_word_mask: bool = option(
        False,
        "mask all pieces of a word or none; default: single pieces",
        group=INSTANCES,
        action=BooleanOptionalAction,
    )
    masking_unit: str | None = option(
        None,
        "piece, word, ngram (1 to 3 words) or span (1 to 10); default: by --do_whole_word_mask",
        group=INSTANCES,
        metavar="UNIT",
    )
    max_seq_length: Sequence[int] = option(
        (128, 512), "one length or several; default {default}", group=INSTANCES, metavar="N"
    )
    max_predictions_per_seq: Sequence[int] | None = option(
        None,
        f"as many; default {PREDICTIONS_PER_128} for each 128 tokens",
        group=INSTANCES,
        metavar="N",
    )
    masked_lm_prob: float = option(
        0.15, "share of tokens to mask; default {default}", group=INSTANCES
    )
    short_seq_prob: float | None = option(
        None,
        f"share of documents cut into shorter sequences; default {SHORT_SEQ_PROB[MLM_NSP]}, "
        f"with --objective {MLM} {SHORT_SEQ_PROB[MLM]:g}",
        group=INSTANCES,
    )
    dupe_factor: int | None = option(  # of the training part; validation has one copy
        None,
        f"copies of the text with other pairs; default {DUPE_FACTOR['fast']}, "
        f"in exact mode {DUPE_FACTOR['exact']}, with --objective {MLM} {MLM_DUPE_FACTOR}",
        group=INSTANCES,
    )
    random_seed: int = option(12345, "default {default}", group=INSTANCES)
    num_workers: int = option(
        len(os.sched_getaffinity(0)), "threads; default: all cores", group=RUNNING
    )
    # "replace" is "ignore": the tokenizer drops the replacement character U+FFFD.
    errors: str = option(
        "strict",
        "bytes that are not UTF-8: refuse ({default}, default) or leave out",
        group=RUNNING,
        choices=ERRORS,
    )
    dry_run: bool = option(
        False, "only print how much time, disk and memory it will take", group=RUNNING
    )
    block_bytes: int = BLOCK_BYTES  # text handed to a worker at a time; no effect on the result

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        self.instance_options(TRAIN)
        lengths = self.max_seq_length
        differ = 0 < len(lengths) == len(set(lengths))
        require(differ, "--max_seq_length", _joined(lengths), "different lengths")
        require(0 <= self.fraction < 1, "--validation_fraction", self.fraction, "in [0, 1)")
        require(self.num_workers >= 1, "--num_workers", self.num_workers, "1 or more")
        if self.deduplicate and self.mode == "exact":
            raise ConfigurationError(
                "--deduplicate with --mode exact: Google's script leaves no document out; remove "
                "--deduplicate (near-duplicates are counted in the report), or use --mode fast"
            )
        require(self.errors in ERRORS, "--errors", self.errors, ", ".join(ERRORS))
        if len(self.folders) > 1:
            train, validation = (folder.resolve() for folder in self.folders.values())
            if train.is_relative_to(validation) or validation.is_relative_to(train):
                raise ConfigurationError(
                    f"--output_dir {train} and --validation_dir {validation} must be two folders, "
                    "neither inside the other"
                )

    def find_inputs(self) -> list[Input]:
        """The inputs of all corpora; see `find_corpora`."""
        return [source for corpus in self.find_corpora() for source in corpus.inputs]

    def find_corpora(self) -> list[TextCorpus]:
        """The text; what comes through a pipe is kept beside the output for as long.

        Raises:
            ConfigurationError: an input cannot be read here (a package is missing, a full disk), or
                exact mode is asked for several corpora.
            DataError: an input is absent.
        """
        corpora = find_corpora(
            self.input_file,
            text_column=self.text_column,
            sentence_splitter=self.sentence_splitter,
            spool_folder=Path(self.output_dir).parent,
            leave_out=Path(self.leave_out or self.vocab_file),
        )
        if corpora[0].name and self.mode == "exact":
            raise ConfigurationError(
                f"--input_file {corpora[0].name}=... with --mode exact: Google's script shuffles "
                "all documents together and knows no corpora; leave the names out, or use "
                "--mode fast"
            )
        return corpora

    @property
    def is_divided(self) -> bool:
        """Whether not all documents go into one data set."""
        return self.fraction > 0 or self.deduplicate

    @property
    def fraction(self) -> float:
        """Share of the documents for validation; 0: no validation part."""
        if self.validation_fraction is None:
            return VALIDATION_FRACTION[self.mode]
        return self.validation_fraction

    @property
    def folders(self) -> dict[str, Path]:
        """Folder of each part to make, "train" and perhaps "validation".

        Data sets made beside each other keep their validation parts apart.
        """
        train = Path(self.output_dir)
        if self.fraction == 0:
            return {TRAIN: train}
        beside = VALIDATION if train.name == TRAIN else f"{train.name}_{VALIDATION}"
        return {TRAIN: train, VALIDATION: Path(self.validation_dir or train.parent / beside)}

    def instance_options(self, part: str) -> list[InstanceOptions]:
        """Options of each length, in ascending order, for one part of the data.

        Raises:
            ConfigurationError: a value has no meaning, or there are not as many numbers of
                predictions as lengths.
        """
        lengths = self.max_seq_length
        predictions = self.max_predictions_per_seq or [
            round(PREDICTIONS_PER_128 * n / 128) for n in lengths
        ]
        require(
            len(predictions) == len(lengths),
            "--max_predictions_per_seq",
            _joined(predictions),
            f"as many values as --max_seq_length {_joined(lengths)} has",
        )
        dupe_factor = self.dupe_factor
        if dupe_factor is None:
            is_mlm = self.objective == MLM
            dupe_factor = MLM_DUPE_FACTOR if is_mlm else DUPE_FACTOR.get(self.mode, 1)
        short_seq_prob = self.short_seq_prob
        if short_seq_prob is None:
            short_seq_prob = SHORT_SEQ_PROB.get(self.objective, 0.0)
        return [
            InstanceOptions(
                max_seq_length=length,
                max_predictions_per_seq=max_predictions,
                masked_lm_prob=self.masked_lm_prob,
                short_seq_prob=short_seq_prob,
                dupe_factor=dupe_factor if part == TRAIN else 1,
                random_seed=self.random_seed,
                **mask_fields(self.do_whole_word_mask or None, self.masking_unit),
                do_lower_case=self.do_lower_case,
                mode=self.mode,
                objective=self.objective,
            )
            for length, max_predictions in sorted(zip(lengths, predictions, strict=True))
        ]

    def fingerprint(self, part: str, facts: dict[str, Any]) -> str:
        """Hash of all that decides the content of one part.

        Args:
            part: "train" or "validation".
            facts: `vocabulary`, `unicode` and `inputs` as in meta.json.
        """
        contents = [
            {key: value for key, value in record.items() if key != "name"}
            for record in facts["inputs"]
        ]
        split = [part, self.fraction, self.random_seed] if self.fraction > 0 else None
        options = [options.record for options in self.instance_options(part)]
        deciding = {**facts, "inputs": contents, "split": split, "options": options}
        if self.deduplicate:
            deciding["deduplicate"] = True
        return fingerprint(deciding)


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
