"""The corpus report: its figures against a plain count, its warnings, its page."""

import json
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from data_util import arguments, exit_code, make_store, synthetic_text
from script_loader import load_script

from ds_bert.dataset.format import META
from ds_bert.dataset.store import TokenStore
from ds_bert.preprocessing import figures
from ds_bert.reports import charts
from ds_bert.reports.corpus import report_page, report_text


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(synthetic_text(300) + "\nunaffable ☃\n\nthe\n\nthe\n")
    return path


def stored_documents(store):
    """Documents as lists of sentences, each a tuple of ids."""
    tokens, ends, token_offsets, sentence_offsets = store.documents
    for number in range(store.num_documents):
        first, last = (int(offset) for offset in sentence_offsets[number : number + 2])
        bounds = int(token_offsets[number]) + np.array([0, *ends[first:last]], np.int64)
        yield [tuple(tokens[start:stop].tolist()) for start, stop in pairwise(bounds)]


def bins(values, bounds):
    """Number of values up to each bound and above the one before, up to the last one used."""
    ranges = pairwise([0, *bounds])
    counts = {str(high): sum(low < value <= high for value in values) for low, high in ranges}
    while counts and not counts[max(counts, key=int)]:
        del counts[max(counts, key=int)]
    return counts


def powers(values):
    return bins(values, [2**k for k in range(20)])


def expected_report(store):
    """The report by plain counting."""
    documents = list(stored_documents(store))
    sentences = [sentence for document in documents for sentence in document]
    names = [store.vocabulary.tokens[token] for sentence in sentences for token in sentence]
    num_words = sum(not name.startswith("##") for name in names)
    return {
        "documents": len(documents),
        "one_sentence_documents": sum(len(document) == 1 for document in documents),
        "sentences": len(sentences),
        "tokens": len(names),
        "words": num_words,
        "unknown_words": names.count("[UNK]"),
        "unknown_share": round(names.count("[UNK]") / num_words, 6),
        "pieces_per_word": round(len(names) / num_words, 6),
        "tokens_per_sentence": powers(map_len(sentences)),
        "sentences_per_document": powers(map_len(documents)),
        "tokens_per_document": powers([sum(map_len(document)) for document in documents]),
        "repeated_sentences": {
            "share": round(1 - len(set(sentences)) / len(sentences), 6),
            "sampled_one_in": 1,
        },
        "near_duplicates": expected_near_duplicates(documents),
        "lengths": {
            str(length): expected_sequences(store.instances(length).rows, length, sentences)
            for length in store.sequence_lengths
        },
    }


def expected_near_duplicates(documents):
    """Against all earlier documents."""
    sets = []
    for document in documents:
        tokens = [token for sentence in document for token in sentence]
        sets.append({tuple(tokens[at : at + 5]) for at in range(max(1, len(tokens) - 4))})
    number = sum(
        any(len(a & b) >= 0.8 * len(a | b) for b in sets[:place]) for place, a in enumerate(sets)
    )
    share = round(number / len(sets), 6)
    return {"documents": number, "share": share, "similarity": 0.8}


def map_len(items):
    return [len(item) for item in items]


def expected_sequences(rows, length, sentences):
    lengths = [int(row["a_length"]) + int(row["b_length"]) + 3 for row in rows]
    return {
        "longer_sentences": sum(len(sentence) > length - 3 for sentence in sentences),
        "sequences": len(rows),
        "padding_share": round(1 - sum(lengths) / (length * len(rows)), 6),
        "tokens_per_sequence": bins(lengths, [length * k // 8 for k in range(1, 9)]),
    }


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_figures_are_those_of_a_plain_count(mode, tmp_path, text_file, vocab_file):
    store = make_store(
        tmp_path / "train", text_file, vocab_file, max_seq_length=(20, 128), mode=mode
    )
    expected = expected_report(store)
    assert expected["unknown_words"] and expected["lengths"]["20"]["longer_sentences"]
    assert expected["repeated_sentences"]["share"] > 0 and expected["tokens"] > expected["words"]
    assert store.meta["report"] == expected
    statistics = store.meta["statistics"]
    assert (statistics["words"], statistics["unknown_words"]) == (
        expected["words"],
        expected["unknown_words"],
    )


def test_workers_and_portions_do_not_matter(tmp_path, text_file, vocab_file, monkeypatch):
    store = make_store(tmp_path / "train", text_file, vocab_file)
    rows = {128: store.instances(128).rows}
    monkeypatch.setattr("ds_bert.dataset.documents._RANGE_SENTENCES", 50)
    monkeypatch.setattr(figures, "_ROWS_AT_ONCE", 7)
    for num_workers in (1, 3):
        report = figures.corpus_report(store.documents, store.vocabulary, rows, num_workers)
        assert report == store.meta["report"]


def test_each_part_has_its_own_report(preprocess, tmp_path, text_file, vocab_file):
    exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file))
    for part in ("train", "validation"):
        store = TokenStore.open(tmp_path / part)
        assert store.meta["report"] == expected_report(store)
        assert f"<h1>Corpus report: {part} data</h1>" in page_of(store)


def test_repeats_are_estimated_from_a_bounded_sample(tmp_path, vocab_file, monkeypatch):
    """One line in five is the same, so a plain count of the sample would depend on its luck."""
    lines = [f"the of {number}" for number in range(8000)] + ["a and to"] * 2000
    np.random.default_rng(5).shuffle(lines)
    text_file = tmp_path / "text.txt"
    text_file.write_text("\n\n".join("\n".join(lines[i : i + 20]) for i in range(0, 10000, 20)))
    vocabulary = tmp_path / "vocab.txt"
    digits = "\n".join([*"0123456789", *(f"##{digit}" for digit in range(10))])
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nof\na\nand\nto\n" + digits)
    store = make_store(tmp_path / "train", text_file, vocabulary)
    assert store.meta["report"]["repeated_sentences"] == {"share": 0.1999, "sampled_one_in": 1}
    monkeypatch.setattr(figures, "MAX_SAMPLE", 1 << 11)
    monkeypatch.setattr("ds_bert.dataset.documents._RANGE_SENTENCES", 500)
    rows = {128: store.instances(128).rows}
    report = figures.corpus_report(store.documents, store.vocabulary, rows, 2)
    repeats = report.pop("repeated_sentences")
    assert repeats["sampled_one_in"] == 8
    assert repeats["share"] == pytest.approx(0.1999, abs=0.05)  # 2 x 0.8 / sqrt(1000)
    assert {k: v for k, v in store.meta["report"].items() if k in report} == report


@pytest.mark.parametrize("num_hashes", [0, 1, 5, 1000])
def test_hash_table_counts_each_hash_once(num_hashes):
    random = np.random.default_rng(num_hashes)
    different = random.integers(0, 2**63, num_hashes).astype(np.uint64) << np.uint64(1)
    different[:3] = [2, 2**63, 2**40][:num_hashes]  # all but the first of the same place
    table = figures._hash_table(num_hashes)
    assert len(table) >= 2 * num_hashes and len(table) & (len(table) - 1) == 0
    repeated = random.permutation(np.repeat(different, 3))
    halves = np.array_split(repeated, 2)
    assert sum(figures._add_hashes(table, half) for half in halves) == num_hashes
    assert sorted(table[table != 0]) == sorted(different)


@pytest.mark.parametrize(
    ("num_sentences", "one_in"),
    [(1, 1), (1 << 21, 1), ((1 << 21) + 1, 2), (1 << 22, 2), ((1 << 22) + 1, 4), (10**10, 8192)],
)
def test_sampling(num_sentences, one_in):
    assert figures._sampling(num_sentences) == one_in
    assert num_sentences / one_in <= figures.MAX_SAMPLE


def test_warnings_name_the_cure(preprocess, tmp_path, text_file, vocab_file, capsys):
    def warnings_of(text, *options):
        path = tmp_path / "warned.txt"
        path.write_text(text)
        command = arguments(tmp_path, path, vocab_file, "--overwrite", *options)
        assert exit_code(preprocess, *command) == 0
        return capsys.readouterr().err

    sound = synthetic_text(60)
    for word in ("repeat another", "one sentence,", "are cut", "padding"):
        assert word not in warnings_of(sound)
    assert "51% of the lines repeat another line" in warnings_of(sound + "\n" + sound)
    singles = "".join(f"{sentence}\n\n" for sentence in sound.split("\n") if sentence)
    assert "100% of the documents are one sentence" in warnings_of(singles)
    long = sound.replace("\n\n", "\n" + "the of and " * 20 + "\n\n")
    assert "do not fit into 32 tokens and are cut" in warnings_of(long)
    short = "".join(f"the {a}\nof {b}\n\n" for a in "abcdef" for b in "uvwxyz")
    assert "length 128: sequences are so short" in warnings_of(short, "--max_seq_length", 128)


def page_of(store):
    return (store.folder / "report.html").read_text(encoding="utf-8")


def test_page_is_well_formed_and_self_contained(tmp_path, text_file, vocab_file):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    store = make_store(tmp_path / "train", text_file, vocab_file, max_seq_length=(32, 128))
    page = page_of(store)
    report = store.meta["report"]
    assert page == report_page(report, "Corpus report: train data")
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)|https?:", page)
    assert str(tmp_path) not in page
    as_xml = re.sub(r"<(meta [^>]*)>", r"<\1/>", page.replace("<!DOCTYPE html>", ""))
    figures = ElementTree.fromstring(as_xml).findall(".//figure")
    histograms = [report[name] for name in report if name.startswith(("tokens_", "sentences_"))]
    histograms += [figures["tokens_per_sequence"] for figures in report["lengths"].values()]
    assert len(figures) == len(histograms) == 5
    for figure, histogram in zip(figures, histograms, strict=True):
        counts = list(histogram.values())
        counts = counts[next(i for i, count in enumerate(counts) if count) :]
        rows = [row for row in figure.iter("tr") if row.find("td") is not None]
        assert [row.findall("td")[1].text for row in rows] == [f"{count:,}" for count in counts]
        bars = [p for p in figure.iter("path") if "fill: var(--line-1)" in p.get("style", "")]
        ends = [re.findall(r"[\d.]+", bar.get("d"))[::2] for bar in bars]
        widths = [max(map(float, xs)) - min(map(float, xs)) for xs in ends]
        full = max(widths)
        assert widths == pytest.approx([full * count / max(counts) for count in counts], abs=0.06)


def test_title_is_escaped(tmp_path, text_file, vocab_file):
    report = make_store(tmp_path / "train", text_file, vocab_file).meta["report"]
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in report_page(report, "a <b> & c")
    assert "<script" not in report_page(report, "<script>alert('\"')</script>")


def test_a_page_without_matplotlib_has_the_numbers(tmp_path, text_file, vocab_file, monkeypatch):
    report = make_store(tmp_path / "train", text_file, vocab_file).meta["report"]
    monkeypatch.setattr(charts, "is_available", lambda: False)
    page = report_page(report, "a")
    assert "<svg" not in page and page.count("<details open>") == 4
    assert f"<td>{max(report['tokens_per_sentence'].values()):,}</td>" in page


def test_inspection_prints_the_report(preprocess, tmp_path, text_file, vocab_file, capsys):
    inspect_data = load_script("inspect_data").main
    exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file))
    assert str(tmp_path / "train" / "report.html") in capsys.readouterr().out
    assert exit_code(inspect_data, tmp_path / "train", "--report") == 0
    text = capsys.readouterr().out
    report = TokenStore.open(tmp_path / "train").meta["report"]
    assert text == report_text(report) + "\n"
    for number in (report["documents"], report["words"], report["lengths"]["32"]["sequences"]):
        assert f" {number:,}, " in text
    histogram = report["tokens_per_sentence"]
    largest = max(histogram, key=histogram.get)
    share = f"{histogram[largest] / report['sentences']:.1%}"
    assert re.search(rf"-{largest}  █{{30}} +{share}  {histogram[largest]:,}\n", text)


def test_data_sets_without_report_still_serve(preprocess, tmp_path, text_file, vocab_file, capsys):
    command = arguments(tmp_path, text_file, vocab_file)
    exit_code(preprocess, *command)
    meta_file = tmp_path / "train" / META
    meta = json.loads(meta_file.read_text())
    del meta["report"]
    meta_file.write_text(json.dumps(meta))
    assert exit_code(preprocess, *command) == 0
    assert "report.html" not in capsys.readouterr().out.split("nothing redone")[-1]
    inspect_data = load_script("inspect_data").main
    assert exit_code(inspect_data, tmp_path / "train", "--report") == 3
    assert "has no corpus report" in capsys.readouterr().err
