"""The options that decide the instances of one sequence length, and their masks."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ds_bert.errors import ConfigurationError, require

# What a model is trained for. It decides what an instance is.
MLM_NSP, MLM_SOP, MLM = "mlm+nsp", "mlm+sop", "mlm"
OBJECTIVES = (MLM_NSP, MLM_SOP, MLM)

# [CLS] A [SEP] B [SEP], or [CLS] A [SEP]
NUM_SPECIAL_TOKENS = {MLM_NSP: 3, MLM_SOP: 3, MLM: 2}
FAST, EXACT = "fast", "exact"
MODES = (FAST, EXACT)
# Google's script fails where a segment gets no token, which is below 5.
MIN_SEQ_LENGTH = {FAST: 8, EXACT: 5}
MAX_SEQ_LENGTH = 65_535  # the store counts positions in 16 bits

# What is masked as a whole or not at all.
PIECE, WORD, NGRAM, SPAN = "piece", "word", "ngram", "span"
MASKING_UNITS = (PIECE, WORD, NGRAM, SPAN)
_RUNS = (NGRAM, SPAN)  # of words


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How the masks of a sequence are drawn.

    Attributes:
        masked_lm_prob: share of a sequence's tokens to mask, in (0, 1).
        max_predictions_per_seq: masked tokens of a sequence at most.
        do_whole_word_mask: mask all pieces of a word or none.
        masking_unit: "ngram" or "span" for runs of whole words; see `mask_fields`.
        mask_replace_prob: share of the masked tokens shown as [MASK].
        random_replace_prob: share of them shown as a random token; the rest is shown as it is.
    """

    masked_lm_prob: float
    max_predictions_per_seq: int
    do_whole_word_mask: bool
    masking_unit: str | None = None
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1

    @property
    def unit(self) -> str:
        """One of MASKING_UNITS."""
        return self.masking_unit or (WORD if self.do_whole_word_mask else PIECE)


def mask_fields(do_whole_word_mask: bool | None, masking_unit: str | None) -> dict[str, Any]:
    """The fields `do_whole_word_mask` and `masking_unit` for what a user says; None: nothing.

    The first alone tells pieces from words, as it did before there were other units: what was made
    then is the same as what is made now.

    Raises:
        ConfigurationError: no such unit, or the two contradict each other.
    """
    if masking_unit is None:
        return {"do_whole_word_mask": bool(do_whole_word_mask), "masking_unit": None}
    require(masking_unit in MASKING_UNITS, "masking_unit", masking_unit, ", ".join(MASKING_UNITS))
    has_words = masking_unit != PIECE
    if do_whole_word_mask not in (None, has_words):
        raise ConfigurationError(
            f"masking_unit {masking_unit} and do_whole_word_mask {do_whole_word_mask} contradict "
            "each other; leave do_whole_word_mask out"
        )
    runs = masking_unit if masking_unit in _RUNS else None
    return {"do_whole_word_mask": has_words, "masking_unit": runs}


@dataclass(frozen=True, kw_only=True)
class InstanceOptions:
    """Options of one sequence length, named as the flags of Google's script.

    Attributes:
        max_seq_length: tokens of the longest sequence, the special tokens included.
        max_predictions_per_seq: masked tokens of a sequence at most.
        masked_lm_prob: share of a sequence's tokens to mask, in (0, 1).
        short_seq_prob: share of the documents cut into shorter sequences, in [0, 1].
        dupe_factor: how often the documents are gone through, with other pairs each time.
        random_seed: any integer.
        do_whole_word_mask: mask all pieces of a word or none.
        masking_unit: "ngram" or "span" for runs of whole words; see `mask_fields`.
        do_lower_case: the text was lower-cased and stripped of accents.
        mode: "exact" for the draws of Google's script in its order and masks stored, "fast" for a
            stream of draws per document and masks made when a batch is built.
        objective: "mlm+nsp" for pairs of segments, "mlm+sop" for pairs of consecutive segments in
            either order, "mlm" for whole sentences of one document.

    Exact mode takes every finite number that Google's script makes instances with; the ranges are
    those of fast mode.
    """

    max_seq_length: int
    max_predictions_per_seq: int
    masked_lm_prob: float
    short_seq_prob: float
    dupe_factor: int
    random_seed: int
    do_whole_word_mask: bool
    do_lower_case: bool
    mode: str
    objective: str = MLM_NSP
    masking_unit: str | None = None

    def __post_init__(self):
        """Refuse values without a meaning."""
        objective, mode, unit = self.objective, self.mode, self.masking_unit
        require(objective in OBJECTIVES, "--objective", objective, " or ".join(OBJECTIVES))
        require(mode in MODES, "--mode", mode, " or ".join(MODES))
        runs = f"{' or '.join(_RUNS)} (pieces and words: do_whole_word_mask)"
        require(unit in (None, *_RUNS), "masking_unit", unit, runs)
        length, shortest = self.max_seq_length, MIN_SEQ_LENGTH[mode]
        lengths = f"from {shortest} to {MAX_SEQ_LENGTH}"
        require(shortest <= length <= MAX_SEQ_LENGTH, "--max_seq_length", length, lengths)
        require(self.dupe_factor >= 1, "--dupe_factor", self.dupe_factor, "1 or more")
        if mode == EXACT:
            self._require_what_google_has()
        else:
            self._require_sense()

    def _require_what_google_has(self) -> None:
        if self.objective != MLM_NSP:
            raise ConfigurationError(
                f"--objective {self.objective} with --mode exact: expected --mode fast, or "
                f"{MLM_NSP}: Google's script makes pairs with random next segments only"
            )
        if self.masking_unit is not None:
            raise ConfigurationError(
                f"--masking_unit {self.masking_unit} with --mode exact: expected --mode fast, or "
                f"{PIECE} or {WORD}: Google's script knows no others"
            )
        for name in ("masked_lm_prob", "short_seq_prob"):
            value = getattr(self, name)
            require(math.isfinite(value), f"--{name}", value, "a finite number")

    def _require_sense(self) -> None:
        length, most = self.max_seq_length, self.max_predictions_per_seq
        require(
            1 <= most <= self.max_num_tokens,
            "--max_predictions_per_seq",
            most,
            f"from 1 to {self.max_num_tokens} for --max_seq_length {length}",
        )
        require(0 < self.masked_lm_prob < 1, "--masked_lm_prob", self.masked_lm_prob, "in (0, 1)")
        require(0 <= self.short_seq_prob <= 1, "--short_seq_prob", self.short_seq_prob, "in [0, 1]")

    @property
    def max_num_tokens(self) -> int:
        """Tokens of the text in the longest sequence."""
        return self.max_seq_length - self.num_special_tokens

    @property
    def max_masks(self) -> int:
        """Masked tokens that a sequence can have: no more than it has tokens of text."""
        return max(0, min(self.max_predictions_per_seq, self.max_num_tokens))

    @property
    def has_pairs(self) -> bool:
        """Whether a sequence is [CLS] A [SEP] B [SEP]."""
        return self.objective != MLM

    @property
    def num_special_tokens(self) -> int:
        """Special tokens of a sequence."""
        return NUM_SPECIAL_TOKENS[self.objective]

    @property
    def masks(self) -> MaskOptions:
        """How the data set itself has its masks drawn."""
        return MaskOptions(
            masked_lm_prob=self.masked_lm_prob,
            max_predictions_per_seq=self.max_predictions_per_seq,
            do_whole_word_mask=self.do_whole_word_mask,
            masking_unit=self.masking_unit,
        )

    @property
    def record(self) -> dict[str, Any]:
        """JSON values for meta.json; what old data sets do not have only where it is new."""
        old = [("objective", MLM_NSP), ("masking_unit", None)]
        return {name: value for name, value in asdict(self).items() if (name, value) not in old}
