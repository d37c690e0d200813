"""Several corpora in one data set: apart in every respect but the vocabulary."""

import json

import numpy as np
import pytest
from data_util import exit_code, file_hashes, make_store, preprocess_with_stops, synthetic_text
from script_loader import load_script

from ds_bert.dataset.format import META, Corpus
from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.errors import DataError
from ds_bert.preprocessing import instances
from ds_bert.preprocessing.options import PreprocessOptions
from ds_bert.preprocessing.parts import choose_parts

OPTIONS = {"max_seq_length": (32, 64), "validation_fraction": 0.1, "dupe_factor": 2}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Files of two corpora that have no word in common."""
    folder = tmp_path_factory.mktemp("text")
    for number in (1, 2):
        (folder / f"en{number}.txt").write_text(synthetic_text(60, seed=number))
    other = synthetic_text(50, seed=3)
    words = sorted(set(other.split()))
    coded = {word: f"{chr(97 + number % 26)}9" for number, word in enumerate(words)}
    lines = (" ".join(coded[w] for w in line.split()) for line in other.split("\n"))
    (folder / "de.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    words = set((texts / "en1.txt").read_text().split() + (texts / "de.txt").read_text().split())
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]))
    return path


def groups(texts):
    return [f"en={texts}/en*.txt:2", f"de={texts}/de.txt"]


@pytest.fixture(scope="module")
def made(texts, vocabulary, tmp_path_factory):
    """Both parts."""
    folder = tmp_path_factory.mktemp("made")
    train = make_store(folder / "train", groups(texts), vocabulary, **OPTIONS)
    return train, TokenStore.open(folder / "validation")


def is_german(store, tokens):
    marks = np.array(["9" in word for word in store.vocabulary.tokens])
    return marks[tokens]


def test_counts(made):
    train, validation = made
    counts = [0, 0]
    for store in made:
        assert [(c["name"], c["weight"], c["inputs"]) for c in store.meta["corpora"]] == [
            ("en", 2.0, 2),
            ("de", None, 1),
        ]
        english, german = store.meta["report"]["corpora"]
        assert german["tokens"] == is_german(store, store.tokens).sum() > 0
        for name in ("documents", "sentences", "tokens"):
            assert english[name] + german[name] == store.meta["counts"][name]
        counts[0] += english["documents"]
        counts[1] += german["documents"]
        assert verify(store) == 6
    assert counts == [120, 50]
    assert [c["documents"] for c in validation.meta["report"]["corpora"]] == [12, 5]
    assert train.meta["lengths"]["32"]["corpora"].keys() == {"en", "de"}


def test_a_sequence_is_of_one_corpus(made):
    for store in made:
        for length in (32, 64):
            table = store.instances(length)
            assert [corpus.name for corpus in table.corpora] == ["en", "de"]
            assert table.corpora[1].last == len(table)
            random_next = 0
            for corpus, wanted in zip(table.corpora, (False, True), strict=True):
                for row in table.rows[corpus.items]:
                    for segment in "ab":
                        start = int(row[f"{segment}_start"])
                        tokens = store.tokens[start : start + int(row[f"{segment}_length"])]
                        assert (is_german(store, tokens) == wanted).all()
                    random_next += int(row["is_random_next"])
                sequences = store.meta["report"]["corpora"][int(wanted)]["sequences"]
                assert sequences[str(length)] == corpus.size
            assert random_next > len(table) / 4


def test_a_corpus_is_as_if_it_were_alone(made, texts, vocabulary, tmp_path):
    """Its documents for validation and its rows do not depend on the corpora beside it."""
    alone = make_store(tmp_path / "train", [f"de={texts}/de.txt"], vocabulary, **OPTIONS)
    for store, one in zip(made, (alone, TokenStore.open(tmp_path / "validation")), strict=True):
        german = is_german(store, store.tokens)
        assert (store.tokens[german] == one.tokens).all()
        for length in (32, 64):
            table = store.instances(length)
            rows = table.rows[table.corpora[1].items].copy()
            for name in ("a_start", "b_start"):
                rows[name] -= np.uint64(np.flatnonzero(german)[0])
            assert rows.tobytes() == one.instances(length).rows.tobytes()


def test_one_text_without_names_is_as_before(texts, vocabulary, tmp_path):
    """Names change no token, but the draws."""
    inputs = f"{texts}/en*.txt,{texts}/de.txt"
    plain = make_store(tmp_path / "train", [inputs], vocabulary, **OPTIONS)
    assert "corpora" not in plain.meta and "corpora" not in plain.meta["report"]
    assert "corpora" not in plain.meta["lengths"]["32"]
    assert plain.instances(32).corpora == ()


def test_workers_blocks_and_interruptions_do_not_matter(
    made, texts, vocabulary, tmp_path, monkeypatch
):
    expected = [file_hashes(store.folder) for store in made]
    monkeypatch.setattr("ds_bert.dataset.documents._RANGE_SENTENCES", 400)
    job = PreprocessOptions(
        input_file=groups(texts), output_dir=str(tmp_path / "train"), vocab_file=str(vocabulary),
        num_workers=3, block_bytes=3000, **OPTIONS,
    )  # fmt: skip
    preprocess_with_stops(monkeypatch, job, every=7)
    found = [file_hashes(tmp_path / part) for part in ("train", "validation")]
    assert found == expected


def test_the_report_names_the_corpora(made, capsys):
    inspect_data = load_script("inspect_data").main
    assert exit_code(inspect_data, made[0].folder, "--report") == 0
    shown = capsys.readouterr().out
    german = made[0].meta["report"]["corpora"][1]
    assert f"{german['documents']:,} documents, {german['sentences']:,} sentences" in shown
    page = (made[0].folder / "report.html").read_text()
    assert "<dt>corpus en</dt>" in page and "weight 2</dd>" in page


def test_other_names_or_weights_are_another_data_set(texts, vocabulary, tmp_path, capsys):
    command = load_script("preprocess").main
    files = [f"en={texts}/en1.txt", f"de={texts}/de.txt:{{}}"]
    line = ["--output_dir", tmp_path / "train", "--vocab_file", vocabulary, "--max_seq_length", 32]

    def run(*inputs):
        return exit_code(command, "--input_file", *inputs, *line)

    assert run(files[0], files[1].format(2)) == 0
    assert run(files[0], files[1].format(2)) == 0
    assert "nothing redone" in capsys.readouterr().out
    for other in ([files[0], files[1].format(3)], [f"{texts}/en1.txt", f"{texts}/de.txt"]):
        assert run(*other) == 2
        assert "made from other text or options" in capsys.readouterr().err


def test_what_is_refused(texts, vocabulary, tmp_path, capsys):
    command = load_script("preprocess").main
    line = ["--output_dir", tmp_path / "train", "--vocab_file", vocabulary, "--max_seq_length", 32]

    def message(code, *arguments):
        assert exit_code(command, *arguments, *line) == code
        return capsys.readouterr().err

    exact = message(2, "--input_file", *groups(texts), "--mode", "exact")
    assert "en=... with --mode exact" in exact and "leave the names out" in exact
    (tmp_path / "one.txt").write_text("the of\nand\n")
    (tmp_path / "none.txt").write_text("\n\n")
    few = ["--input_file", f"en={texts}/en1.txt"]
    assert "corpus x is a single document" in message(3, *few, f"x={tmp_path}/one.txt")
    assert "no text in corpus x" in message(3, *few, f"x={tmp_path}/none.txt")
    (tmp_path / "three.txt").write_text("the of\n\nand\n\nto\n")
    assert "3 documents of corpus x cannot be divided" in message(
        3, *few, f"x={tmp_path}/three.txt"
    )
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("change", [{"en": 1}, {"en": -9999, "de": 9999}])
def test_damaged_counts_are_noticed(change, made, tmp_path):
    store = made[1]
    for path in store.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    meta = json.loads((store.folder / META).read_text())
    for name, number in change.items():
        meta["lengths"]["32"]["corpora"][name] += number
    (tmp_path / META).unlink()
    (tmp_path / META).write_text(json.dumps(meta))
    with pytest.raises(DataError, match=r"meta\.json is damaged"):
        TokenStore.open(tmp_path).instances(32)


def test_portions_of_a_corpus_follow_each_other(made, monkeypatch):
    """All copies of a corpus are neighbours."""
    seen = []
    original = instances.build_instances

    def build(documents, options, copy, first, last):
        seen.append((len(documents.token_offsets) - 1, copy))
        return original(documents, options, copy, first, last)

    monkeypatch.setattr(instances, "build_instances", build)
    store = made[0]
    corpora = [c._replace(first=f, last=g) for c, f, g in _document_ranges(store)]
    options = store.instances(32).options
    state = {"num_portions": 0, "num_instances": [0, 0]}
    chunks = [c.rows for c, _ in instances._fast(store.documents, corpora, options, 1, state)]
    assert seen == [(108, 0), (108, 1), (45, 0), (45, 1)]
    assert np.concatenate(chunks).tobytes() == store.instances(32).rows.tobytes()


def _document_ranges(store):
    first = 0
    for corpus, record in zip(
        store.instances(32).corpora, store.meta["report"]["corpora"], strict=True
    ):
        yield corpus, first, first + record["documents"]
        first += record["documents"]


def test_corpora_of_one_size_are_divided_each_in_its_own_way():
    options = PreprocessOptions(validation_fraction=0.3)
    corpora = [Corpus("a", None, 0, 50), Corpus("b", None, 50, 100)]
    is_kept = np.ones(100, np.bool_)
    is_kept[::7] = False
    chosen = choose_parts(options, corpora, is_kept)
    validation = chosen["validation"]
    assert (chosen["train"] == is_kept & ~validation).all() and not (validation & ~is_kept).any()
    for corpus in corpora:
        assert validation[corpus.items].sum() == round(0.3 * is_kept[corpus.items].sum())
    assert (validation[:50] != validation[50:]).sum() > 10
