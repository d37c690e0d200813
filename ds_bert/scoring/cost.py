"""About how much a score computes, before it is made."""

from contextlib import suppress

from ds_bert.scoring.options import ScoreOptions

_BYTES = 4  # of a token, with what stands around a text in a file
_UNKNOWN = 5000, 1_000_000  # examples and bytes of data that is no file


def num_tokens(options: ScoreOptions) -> float:
    """Tokens that all models go through, over all seeds and epochs, by the sizes of the files.

    Those of test examples count a third: there is no backward pass.
    """
    models = 1 + bool(options.compare) + options.untrained
    train, test = (
        _tokens(name, options.max_seq_length) for name in (options.train_file, options.test_file)
    )
    return models * options.seeds * (options.epochs * train + test / 3)


def _tokens(name: str, most: int) -> float:
    """Of a file's examples, of which none counts more than `most`."""
    num_examples, num_bytes = _UNKNOWN
    with suppress(OSError), open(name, "rb") as file:
        num_examples = sum(1 for _ in file)
        num_bytes = file.tell()
    return min(num_bytes / _BYTES, num_examples * most)
