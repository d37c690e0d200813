"""Where Hugging Face's tokenizer differs from ours, and why."""

import pytest
from tokenizers.processors import TemplateProcessing
from training_util import make_data
from transformers import BertTokenizer

from ds_bert.dataset.store import TokenStore
from ds_bert.errors import CheckpointError
from ds_bert.exporting import same_tokens
from ds_bert.exporting.checks import describe
from ds_bert.exporting.same_tokens import CHARACTERS, LONG_WORDS, SIGMA, SPECIAL
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory, vocab_file):
    folder = tmp_path_factory.mktemp("tokenizer")
    BertTokenizer(vocab=str(vocab_file), do_lower_case=True).save_pretrained(folder)
    (folder / "vocab.txt").write_bytes(vocab_file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The house, and Ünder the brïdge: 中文!", None),
        ("a literal [MASK] is a word", SPECIAL),
        (f"long {'read' * 40} word", LONG_WORDS),
        ("the ὈΔΟΣ here", SIGMA),
        ("a private\ue000use", CHARACTERS),
        ("of a Khitan letter \u0891the", CHARACTERS),
    ],
)
def test_each_kind_of_difference_is_known(folder, vocabulary, text, kind):
    texts = ["the same in both", text]
    fast = same_tokens.compare_tokenizers(folder, vocabulary, True, texts)[0]
    assert dict(fast.kinds) == ({kind: 1} if kind else {})
    ours = WordPieceTokenizer(vocabulary, True)
    expected = sum(len(ours.encode(line.encode()).tokens) for line in texts)
    assert (fast.sentences, fast.tokens) == (2, expected)
    assert len(describe(fast, "text")) == 1 + bool(kind)


def test_characters_are_named(folder, vocabulary):
    texts = ["a private\ue000use", "another\ue000one\uf8ff"]
    fast = same_tokens.compare_tokenizers(folder, vocabulary, True, texts)[0]
    assert fast.characters == {"\ue000": 2, "\uf8ff": 1}
    assert "U+E000, U+F8FF" in describe(fast, "text")[1]


def test_a_difference_without_a_known_reason_is_told_too(folder, vocabulary, monkeypatch):
    theirs = same_tokens._ids
    monkeypatch.setattr(
        same_tokens, "_ids", lambda tokenizer, texts: [ids[:-1] for ids in theirs(tokenizer, texts)]
    )
    monkeypatch.setattr(same_tokens, "_require_pair", lambda *_: None)
    monkeypatch.setattr(same_tokens, "_differs", lambda *_: False)
    fast = same_tokens.compare_tokenizers(folder, vocabulary, True, ["the end of the day"])[0]
    assert dict(fast.kinds) == {same_tokens.OTHER: 1}
    assert fast.examples[same_tokens.OTHER] == [("of the day", "of the")]


@pytest.mark.parametrize("casing", [True, False])
def test_a_tokenizer_of_another_casing_is_refused(folder, vocabulary, casing):
    if casing:
        same_tokens.compare_tokenizers(folder, vocabulary, True, ["The House"])
        return
    with pytest.raises(CheckpointError, match="not the tokenizer of the data's vocabulary"):
        same_tokens.compare_tokenizers(folder, vocabulary, False, ["The House"])


@pytest.mark.parametrize("pair", ["$A:0 $B:1", "[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0"])
def test_pairs_without_their_special_tokens_or_segments_are_refused(folder, vocabulary, pair):
    tokenizer = BertTokenizer.from_pretrained(folder)
    texts, ids = ("the end", "of it"), tuple(same_tokens._ids(tokenizer, ["the end", "of it"]))
    same_tokens._require_pair("x", tokenizer, vocabulary, texts, ids)
    special = [(token, vocabulary.ids[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair=pair, special_tokens=special
    )
    with pytest.raises(CheckpointError, match=r"expected \[CLS\] A \[SEP\] B"):
        same_tokens._require_pair("x", tokenizer, vocabulary, texts, ids)


def test_sentences_come_back_from_their_tokens(tmp_path, golden, vocabulary):
    store = TokenStore.open(make_data(tmp_path / "data", golden))
    found = list(same_tokens.stored_sentences(store, vocabulary, 10_000))
    assert len(found) == store.meta["counts"]["sentences"]
    ours = WordPieceTokenizer(vocabulary, True)
    assert ours.encode("\n".join(found).encode()).tokens.tolist() == store.tokens.tolist()
    some = list(same_tokens.stored_sentences(store, vocabulary, 7))
    assert some == found[:: len(found) // 7]


def test_lines_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\n  \nTwo  \nThree")
    assert list(same_tokens.written_sentences(str(tmp_path / "a.txt"), 9)) == [
        "One.",
        "Two",
        "Three",
    ]
    assert list(same_tokens.written_sentences(str(tmp_path / "a.txt"), 2)) == ["One.", "Two"]
