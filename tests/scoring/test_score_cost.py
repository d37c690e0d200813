"""What a score computes, reckoned from the sizes of its files."""

import pytest

from ds_bert.scoring.cost import num_tokens
from ds_bert.scoring.options import ScoreOptions


def test_tokens_of_all_models_seeds_and_epochs(tmp_path):
    short, long = tmp_path / "short.jsonl", tmp_path / "long.jsonl"
    short.write_text(10 * ("x" * 39 + "\n"))  # 10 tokens each
    long.write_text(3 * ("x" * 9999 + "\n"))  # cut
    options = {"task": "pairs", "train_file": str(short), "test_file": str(long)}
    once = ScoreOptions(checkpoint="-", seeds=1, epochs=4, max_seq_length=64, **options)
    assert num_tokens(once) == pytest.approx(4 * 10 * 10 + 3 * 64 / 3)
    more = ScoreOptions(
        checkpoint="-", compare="-", untrained=True, seeds=2, epochs=4, max_seq_length=64, **options
    )
    assert num_tokens(more) == pytest.approx(3 * 2 * num_tokens(once))


def test_data_that_are_no_file_are_guessed():
    options = ScoreOptions(checkpoint="-", task="pairs", train_file="hf:a/b", test_file="hf:a/b")
    assert num_tokens(options) > 1e6
