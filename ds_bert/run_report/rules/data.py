"""Rules of the diagnosis about data: vocabulary, repeats, pairs given away, and waiting for it."""

from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.history import Phase
from ds_bert.run_report.rules.finding import Finding, Severity, last_part, mean, values

MANY_UNKNOWN, SOME_UNKNOWN = 0.02, 0.01  # of the words
MANY_PIECES, SOME_PIECES = 2.6, 2.0  # for a word; 1.1 to 1.6 with a vocabulary of its own
MANY_REPEATS, SOME_COPIES, SOME_REPEATS = 0.3, 0.05, 0.1  # of documents, or of sentences
MANY_EPOCHS = 100
GIVEN_AWAY = 0.1  # accuracy by lengths above that of the more frequent answer
LONG_WAIT, SOME_WAIT = 0.4, 0.15  # of the time


def wrong_vocabulary(phase: Phase, base: Baselines) -> Finding | None:
    """Words that the vocabulary does not know, or knows only in splinters."""
    unknown, pieces = base.unknown_share or 0.0, base.pieces_per_word or 0.0
    if unknown < SOME_UNKNOWN and pieces < SOME_PIECES:
        return None
    is_bad = unknown >= MANY_UNKNOWN or pieces >= MANY_PIECES
    return Finding(
        Severity.PROBLEM if is_bad else Severity.WARNING,
        "The vocabulary does not fit the text",
        f"{unknown:.1%} of the words are unknown, {pieces:.2f} tokens for each word",
        f"under {SOME_UNKNOWN:.0%} unknown and about 1.1 to 1.6 tokens for each word",
        "learn a vocabulary from this text (ds-bert create-vocab), with the same casing, and "
        "preprocess again; if another model's has to stay, check that it is of the same language",
    )


def repeated_corpus(phase: Phase, base: Baselines) -> Finding | None:
    """Documents or lines that come again and again, or a small corpus read too often."""
    near, lines = base.near_duplicates or 0.0, base.repeated_sentences or 0.0
    epochs = sum(values(phase.train, "num_tokens")) / base.num_tokens if base.num_tokens else 0.0
    if near < SOME_COPIES and lines < SOME_REPEATS and epochs < MANY_EPOCHS:
        return None
    return Finding(
        Severity.PROBLEM if max(near, lines) >= MANY_REPEATS else Severity.WARNING,
        "The corpus repeats itself",
        f"{near:.1%} of the documents are nearly the same as an earlier one, {lines:.1%} of the "
        f"sentences equal an earlier one, the text was read {epochs:.1f} times",
        f"under {SOME_COPIES:.0%} such documents and {SOME_REPEATS:.0%} such sentences, and fewer "
        f"than {MANY_EPOCHS} epochs (BERT: 40)",
        "preprocess with --deduplicate, remove headers, footers and other lines that come with "
        "every document; for more epochs than that, more text or fewer steps",
    )


def pairs_given_away(phase: Phase, base: Baselines) -> Finding | None:
    """Lengths alone tell whether two segments belong together."""
    by_lengths, majority = base.pair_lengths, base.pair_majority
    if by_lengths is None or majority is None or by_lengths < majority + GIVEN_AWAY:
        return None
    return Finding(
        Severity.WARNING,
        "Lengths alone solve the pairs",
        f"the lengths of the two segments tell {by_lengths:.1%} of the answers, always giving the "
        f"same answer {majority:.1%}",
        "lengths that tell next to nothing, so that the task teaches meaning",
        "make the instances again with ds-bert preprocess; in imported instances random segments "
        "seem to be cut differently from real ones. Until then do not trust this accuracy",
    )


def starving(phase: Phase, base: Baselines) -> Finding | None:
    """The device waits for data."""
    after_start = phase.train[1:]
    share = mean(values(last_part(after_start, 0.5), "data_wait_share"))
    if share is None or share < SOME_WAIT:
        return None
    return Finding(
        Severity.PROBLEM if share >= LONG_WAIT else Severity.WARNING,
        "Training waits for its data",
        f"{share:.0%} of the time",
        "under 5 %: batches are made in the background, two steps ahead",
        "copy the data set to a local disk or into memory; give each rank a core of its own beside "
        "the one that it trains with; see that nothing else reads from that disk",
    )
