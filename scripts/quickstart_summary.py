"""The last screen of scripts/quickstart.sh: what was made, where, and how good it is."""

import sys

if not __package__:
    sys.path.pop(0)  # this folder's file names must not shadow other packages

import argparse
import json
from pathlib import Path

from transformers import logging, pipeline

from ds_bert.dataset.store import TokenStore, unigram_entropy

EXAMPLE = "Return the number of [MASK] in the list."


def main() -> None:
    """Print the summary of the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"), help="default demo")
    parser.add_argument("--runs", type=Path, default=Path("demo/runs/quick"), help="of both phases")
    options = parser.parse_args()
    folder = options.folder
    store = TokenStore.open(folder / "data/train")
    entropy = unigram_entropy(store)
    print(
        f"{len(store.tokens):,} tokens of text, vocabulary of {store.vocabulary.size:,}\n\n"
        f"unigram entropy of the text: {entropy:.3f} nats (what token frequencies alone can reach)"
    )
    for length in store.sequence_lengths:
        found = json.loads((folder / f"seq{length}.json").read_text(encoding="utf-8"))
        print(
            f"validation, {length} tokens: MLM loss {found['mlm_loss']:.3f} nats "
            f"({found['mlm_loss'] - entropy:+.3f}), perplexity {found['perplexity']:.0f}, "
            f"MLM accuracy {found['mlm_accuracy']:.1%}, NSP accuracy {found['nsp_accuracy']:.1%}"
        )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    answers = pipeline("fill-mask", model=str(folder / "model"))(EXAMPLE)
    words = ", ".join(f"{answer['token_str']} {answer['score']:.1%}" for answer in answers)
    print(f"\n{EXAMPLE}\n  [MASK] = {words}\n")
    for name, what in (
        ("corpus.txt", "the text, one sentence a line"),
        ("vocab.txt", "its vocabulary"),
        ("data/", "token store: training and validation data"),
        ("model/", "the model for Hugging Face transformers"),
    ):
        print(f"  {folder / name!s:20} {what}")
    print(
        f"\nCurves, and what the model has not learned yet: {options.runs / 'seq512/report.html'}"
    )
    print("Your own text: README.md, section 'Your own text'")


if __name__ == "__main__":
    main()
