"""Exact mode against Google's rules in plain Python: random texts, vocabularies and options.

FUZZ_CASES=20000 in the environment tries as many (the suite tries 250).
"""

import os
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import reference_google
import reference_tokenizer
from data_util import exit_code
from test_exact import as_golden

from ds_bert.dataset.documents import encoded_run
from ds_bert.dataset.format import Documents
from ds_bert.dataset.options import InstanceOptions
from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.instances.exact import GoogleInstances
from ds_bert.instances.examples import examples
from ds_bert.rng import mersenne_twister
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer

NUM_CASES = int(os.environ.get("FUZZ_CASES", 250))
PIECES = ["a", "b", "ab", "abc", "c", "e", "ba", "##a", "##b", "##ab", "##c", "##ba", "!", "##"]
CHOICES = {
    "max_seq_length": (5, 6, 7, 8, 9, 12, 16, 33, 64, 128),
    "max_predictions_per_seq": (-3, 0, 1, 2, 5, 20, 200, 10**20),
    "masked_lm_prob": (-1, 0, 1e-9, 0.05, 0.15, 0.15, 0.5, 0.95, 1, 1.5, 1e300),
    "short_seq_prob": (-1, 0, 0.1, 0.5, 1, 7.5),
    "dupe_factor": (1, 1, 2, 3),
    "random_seed": (0, 1, 12345, -12345, 2**32, 2**40 + 1, -(2**70), 10**30),
    "do_whole_word_mask": (False, True),
    "do_lower_case": (False, True),
}


def random_vocabulary(rng):
    """Bytes of a vocab.txt, with duplicates, blank lines and white space around tokens."""
    lines = [*SPECIAL_TOKENS, *rng.sample(PIECES, rng.randint(1, len(PIECES)))]
    lines += rng.choices([*lines, "", " ", "\t", "unused"], k=rng.randint(0, 6))
    rng.shuffle(lines)
    ends = ("\n", "\n", "\n", "\r\n", " \n", "\n\n")
    text = "".join(line + rng.choice(ends) for line in lines)
    return (text[:-1] if rng.random() < 0.2 else text).encode()


def random_text(rng):
    """Bytes of a text, with lines that are blank or without tokens, and lone carriage returns."""
    lines = []
    for _ in range(rng.randint(1, 6)):
        for _ in range(rng.choice((1, 1, 2, 5, 12))):
            num_words = rng.choice((0, 1, 1, 2, 4, 8, 8, 15, 60))
            words = (
                "".join(rng.choices("ababce!.\rE", k=rng.randint(1, 5))) for _ in range(num_words)
            )
            lines.append(" ".join(words) or rng.choice(("a", "\u200b", "\0")))
        lines += rng.choices(("", " \r", "\u3000", "\u2028"), k=rng.randint(1, 2))
    return "\n".join([*lines, "a b"]).encode()  # a text without a token is refused


def random_case(seed):
    rng = Random(seed)
    options = {name: rng.choice(values) for name, values in CHOICES.items()}
    return random_text(rng), random_vocabulary(rng), options


def expected(text, vocabulary, options):
    ids = reference_google.read_vocabulary(vocabulary)
    documents = reference_tokenizer.read_documents(
        text, lambda line: reference_tokenizer.tokenize(line, ids, options["do_lower_case"])
    )
    made, rng = reference_google.instances(documents, ids, SimpleNamespace(**options))
    return [as_ids(made, ids), rng.getrandbits(64)]


def as_ids(made, ids):
    return [
        [[ids[token] for token in tokens], border, positions, [ids[t] for t in labels], label]
        for tokens, border, positions, labels, label in made
    ]


def found(text, vocabulary, options):
    """What the compiled code makes, from arrays in memory."""
    lines = vocabulary.decode().replace("\r", "").split("\n")
    vocabulary = Vocabulary(lines if lines[-1] else lines[:-1])
    run = encoded_run(WordPieceTokenizer(vocabulary, options["do_lower_case"]).encode(text))
    offsets = (np.concatenate([[0], np.cumsum(counts)]) for counts in run[2:])
    documents = Documents(run.tokens, run.sentence_ends, *(o.astype(np.uint64) for o in offsets))
    options = InstanceOptions(**options, mode="exact")
    google = GoogleInstances(documents, options, vocabulary)
    made = [row for chunk in google.chunks() for row in rows_of(chunk, documents, vocabulary)]
    order = google.final_order(len(made))
    after = int(mersenne_twister.getrandbits(google.state, 64))
    return [[made[number] for number in order], after]


def rows_of(chunk, documents, vocabulary):
    ends = np.cumsum(chunk.mask_counts, dtype=int)
    for row, end, count in zip(chunk.rows, ends, chunk.mask_counts, strict=True):
        a, b = (documents.tokens[row[f"{s}_start"] :][: row[f"{s}_length"]].tolist() for s in "ab")
        tokens = [vocabulary.cls_id, *a, vocabulary.sep_id, *b, vocabulary.sep_id]
        positions = chunk.positions[end - count : end].tolist()
        labels = [tokens[position] for position in positions]
        for position, token in zip(positions, chunk.replacements[end - count : end], strict=True):
            tokens[position] = int(token)
        yield [tokens, len(a) + 2, positions, labels, int(row["is_random_next"])]


def test_equals_the_rules():
    num_instances = num_masks = 0
    for seed in range(NUM_CASES):
        case = random_case(seed)
        ours, theirs = found(*case), expected(*case)
        assert ours == theirs, f"case {seed}: {case[2]}"
        num_instances += len(ours[0])
        num_masks += sum(len(row[2]) for row in ours[0])
    assert num_instances > 10 * NUM_CASES and num_masks > num_instances


# One at each end, then as they come.
FORCED = [
    {"max_seq_length": 5, "max_predictions_per_seq": 10**20, "masked_lm_prob": 1e300},
    {"max_seq_length": 64, "max_predictions_per_seq": -3, "masked_lm_prob": -1},
    {"random_seed": -(2**70), "short_seq_prob": 7.5},
    *[{}] * 5,
]


@pytest.mark.parametrize("seed", range(len(FORCED)))
def test_by_the_command(seed, preprocess, tmp_path):
    """The same from files: text in two of them, vocab.txt, flags; and back from the data set."""
    text, vocabulary, options = random_case(1000 + seed)
    options |= FORCED[seed]
    (tmp_path / "vocab.txt").write_bytes(vocabulary)
    middle = text.find(b"\n", len(text) // 2) + 1  # the end of a file ends no document
    for name, part in (("1.txt", text[:middle]), ("2.txt", text[middle:])):
        (tmp_path / name).write_bytes(part)
    flags = [f"--{name}={value}" for name, value in options.items() if name[:3] != "do_"]
    flags += [f"--{'' if options[name] else 'no_'}{name}" for name in options if name[:3] == "do_"]
    files = ["--input_file", tmp_path / "?.txt", "--vocab_file", tmp_path / "vocab.txt"]
    files += ["--output_dir", tmp_path / "train"]
    assert exit_code(preprocess, "--mode", "exact", *files, *flags) == 0
    store = TokenStore.open(tmp_path / "train")
    table = store.instances(options["max_seq_length"])
    made = [as_golden(example) for example in examples(table)]
    ids = reference_google.read_vocabulary(vocabulary)
    ours = [
        [row[0].split(" "), *row[1:3], row[3].split(" ") if row[3] else [], row[4]] for row in made
    ]
    assert as_ids(ours, ids) == expected(text, vocabulary, options)[0]
    assert verify(store) == 8


@pytest.mark.parametrize(
    ("flag", "value", "why"),
    [
        ("--max_seq_length", 4, "expected from 5 to 65535"),  # the script's assertion fails
        ("--max_seq_length", 65536, "expected from 5 to 65535"),  # 16 bits
        ("--masked_lm_prob", "nan", "expected a finite number"),  # the script's round() fails
        ("--dupe_factor", 0, "expected 1 or more"),  # the script makes nothing
    ],
)
def test_what_is_refused(flag, value, why, preprocess, tmp_path, capsys):
    assert exit_code(preprocess, "--mode", "exact", "--output_dir", tmp_path, flag, value) == 2
    assert why in capsys.readouterr().err


def test_where_the_script_fails():
    """At four tokens B is shortened to nothing; so it is here, and refused beforehand."""
    text, vocabulary, options = random_case(0)
    with pytest.raises(AssertionError, match="where the script fails"):
        expected(text, vocabulary, options | {"max_seq_length": 4, "short_seq_prob": 0})
