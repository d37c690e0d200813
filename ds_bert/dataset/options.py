"""The options that decide the instances of one sequence length, and their masks."""

from dataclasses import asdict, dataclass
from typing import Any

from ds_bert.errors import ConfigurationError, require

# What a model is trained for. It decides what an instance is.
MLM_NSP, MLM = "mlm+nsp", "mlm"
OBJECTIVES = (MLM_NSP, MLM)

NUM_SPECIAL_TOKENS = {MLM_NSP: 3, MLM: 2}  # [CLS] A [SEP] B [SEP]; [CLS] A [SEP]
MIN_SEQ_LENGTH, MAX_SEQ_LENGTH = 8, 65_535  # the store counts positions in 16 bits
MODES = ("fast", "exact")


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How the masks of a sequence are drawn.

    Attributes:
        masked_lm_prob: share of a sequence's tokens to mask, in (0, 1).
        max_predictions_per_seq: masked tokens of a sequence at most.
        do_whole_word_mask: mask all pieces of a word or none.
        mask_replace_prob: share of the masked tokens shown as [MASK].
        random_replace_prob: share of them shown as a random token; the rest is shown as it is.
    """

    masked_lm_prob: float
    max_predictions_per_seq: int
    do_whole_word_mask: bool
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1


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
        do_lower_case: the text was lower-cased and stripped of accents.
        mode: "exact" for the draws of Google's script in its order and masks stored, "fast" for a
            stream of draws per document and masks made when a batch is built.
        objective: "mlm+nsp" for pairs of segments, "mlm" for whole sentences of one document.
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

    def __post_init__(self):
        """Refuse values without a meaning."""
        length, most = self.max_seq_length, self.max_predictions_per_seq
        objective, mode = self.objective, self.mode
        require(objective in OBJECTIVES, "--objective", objective, " or ".join(OBJECTIVES))
        require(mode in MODES, "--mode", mode, " or ".join(MODES))
        if mode != "fast" and objective != MLM_NSP:
            raise ConfigurationError(
                f"--objective {objective} with --mode {mode}: expected --mode fast, or {MLM_NSP}: "
                "Google's script makes pairs only"
            )
        lengths = f"from {MIN_SEQ_LENGTH} to {MAX_SEQ_LENGTH}"
        require(MIN_SEQ_LENGTH <= length <= MAX_SEQ_LENGTH, "--max_seq_length", length, lengths)
        require(
            1 <= most <= self.max_num_tokens,
            "--max_predictions_per_seq",
            most,
            f"from 1 to {self.max_num_tokens} for --max_seq_length {length}",
        )
        require(0 < self.masked_lm_prob < 1, "--masked_lm_prob", self.masked_lm_prob, "in (0, 1)")
        require(0 <= self.short_seq_prob <= 1, "--short_seq_prob", self.short_seq_prob, "in [0, 1]")
        require(self.dupe_factor >= 1, "--dupe_factor", self.dupe_factor, "1 or more")

    @property
    def max_num_tokens(self) -> int:
        """Tokens of the text in the longest sequence."""
        return self.max_seq_length - self.num_special_tokens

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
        )

    @property
    def record(self) -> dict[str, Any]:
        """JSON values for meta.json; the objective only where it is not that of old data sets."""
        return {
            name: value
            for name, value in asdict(self).items()
            if (name, value) != ("objective", MLM_NSP)
        }
