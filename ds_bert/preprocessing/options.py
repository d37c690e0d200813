"""What the user says about preprocessing, checked, with the defaults filled in."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ds_bert.dataset.commit import fingerprint
from ds_bert.dataset.options import InstanceOptions
from ds_bert.errors import ConfigurationError
from ds_bert.text.blocks import BLOCK_BYTES
from ds_bert.text.inputs import TEXT_COLUMN, find_inputs
from ds_bert.text.source import Input

DUPE_FACTOR = {"fast": 5, "exact": 10}
VALIDATION_FRACTION = {"fast": 0.01, "exact": 0.0}
ERRORS = ("strict", "ignore", "replace")
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """Options of scripts/preprocess.py; None stands for a default that depends on other options.

    Attributes:
        input_file: files, globs, folders, data sets, standard input, as for find_inputs.
        output_dir: the data set for training.
        validation_dir: the data set for validation; None: beside output_dir, `validation` for a
            folder called `train` and `NAME_validation` for another NAME.
        vocab_file: the vocabulary.
        text_column: column to read, of tables and data sets.
        sentence_splitter: language code, to split paragraphs into sentences; None: lines are
            sentences.
        do_lower_case: lower-case the text and strip its accents.
        do_whole_word_mask: mask all pieces of a word or none.
        max_seq_length: one length or several.
        max_predictions_per_seq: as many; None: 20 for each 128 tokens.
        masked_lm_prob: share of a sequence's tokens to mask.
        short_seq_prob: share of the documents cut into shorter sequences.
        dupe_factor: copies of the corpus with other pairs; None: 5 in fast, 10 in exact mode.
            The validation part has one copy.
        random_seed: any integer.
        mode: "fast" or "exact".
        validation_fraction: share of the documents; None: 0.01 in fast, 0 in exact mode.
        num_workers: number of threads.
        errors: "strict" refuses what is not UTF-8, "ignore" leaves such bytes out. "replace" does
            the same, since the tokenizer drops the replacement character U+FFFD.
        overwrite: replace a data set that exists, finished or not.
        dry_run: stop after the estimate.
        block_bytes: text handed to a worker at a time; of no effect on the result.
    """

    input_file: Sequence[str]
    output_dir: str
    vocab_file: str
    text_column: str = TEXT_COLUMN
    sentence_splitter: str | None = None
    validation_dir: str | None = None
    do_lower_case: bool = True
    do_whole_word_mask: bool = False
    max_seq_length: Sequence[int] = (128, 512)
    max_predictions_per_seq: Sequence[int] | None = None
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    dupe_factor: int | None = None
    random_seed: int = 12345
    mode: str = "fast"
    validation_fraction: float | None = None
    num_workers: int = 1
    errors: str = "strict"
    overwrite: bool = False
    dry_run: bool = False
    block_bytes: int = BLOCK_BYTES

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        self.instance_options(TRAIN)
        if len(set(self.max_seq_length)) < len(self.max_seq_length) or not self.max_seq_length:
            raise ConfigurationError(
                f"--max_seq_length {_joined(self.max_seq_length)}: expected different lengths"
            )
        if not 0 <= self.fraction < 1:
            raise ConfigurationError(f"--validation_fraction {self.fraction}: expected in [0, 1)")
        if self.num_workers < 1:
            raise ConfigurationError(f"--num_workers {self.num_workers}: expected 1 or more")
        if self.errors not in ERRORS:
            raise ConfigurationError(f"--errors {self.errors}: expected {', '.join(ERRORS)}")
        if len(self.folders) > 1:
            train, validation = (folder.resolve() for folder in self.folders.values())
            if train.is_relative_to(validation) or validation.is_relative_to(train):
                raise ConfigurationError(
                    f"--output_dir {train} and --validation_dir {validation} must be two folders, "
                    "neither inside the other"
                )

    def find_inputs(self) -> list[Input]:
        """The inputs; what comes through a pipe is kept beside the output for as long.

        Raises:
            ConfigurationError: an input cannot be read here (a package is missing, a full disk).
            DataError: an input is absent.
        """
        return find_inputs(
            self.input_file,
            text_column=self.text_column,
            sentence_splitter=self.sentence_splitter,
            spool_folder=Path(self.output_dir).parent,
            leave_out=Path(self.vocab_file),
        )

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
        predictions = self.max_predictions_per_seq or [round(20 * n / 128) for n in lengths]
        if len(predictions) != len(lengths):
            raise ConfigurationError(
                f"--max_predictions_per_seq {_joined(predictions)}: expected as many values as "
                f"--max_seq_length {_joined(lengths)} has"
            )
        dupe_factor = self.dupe_factor
        if dupe_factor is None:
            dupe_factor = DUPE_FACTOR.get(self.mode, 1)
        return [
            InstanceOptions(
                max_seq_length=length,
                max_predictions_per_seq=max_predictions,
                masked_lm_prob=self.masked_lm_prob,
                short_seq_prob=self.short_seq_prob,
                dupe_factor=dupe_factor if part == TRAIN else 1,
                random_seed=self.random_seed,
                do_whole_word_mask=self.do_whole_word_mask,
                do_lower_case=self.do_lower_case,
                mode=self.mode,
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
        options = [asdict(options) for options in self.instance_options(part)]
        deciding = {**facts, "inputs": contents, "split": split, "options": options}
        return fingerprint(deciding)


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
