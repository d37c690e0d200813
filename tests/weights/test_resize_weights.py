"""Another vocabulary and another number of positions."""

import pytest
import torch
from data_util import exit_code
from transformers import AutoTokenizer, BertForPreTraining
from weights_util import SIZES, WORDS, assert_same_outputs, outputs, sample, stock_model

from ds_bert.commands.convert_model import main
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary
from ds_bert.weights.resize import is_lower_cased

EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
NEW = [
    "of",  # ids of the special tokens are others, too
    *SPECIAL_TOKENS,
    "walk",
    "the",
    "walking",
    "Unable",
    "##ings",
    "##ables",
    "日",
    "##s",
    "walk日",
]


@pytest.fixture(scope="module")
def model():
    return stock_model()


@pytest.fixture
def source(model, tmp_path):
    folder = tmp_path / "hf"
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def convert(source, out, *more):
    code = exit_code(main, "--model", source, "--output_dir", out, *more)
    assert code == 0
    return BertForPreTraining.from_pretrained(out)


def test_another_vocabulary(model, source, tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("\n".join(NEW) + "\n")
    converted = convert(source, tmp_path / "out", "--vocab_file", tmp_path / "vocab.txt")
    text = (
        "15 tokens instead of 20: 9 shared, 4 new from their pieces, 2 new from the mean of all, "
    )
    assert f"vocabulary: {text}11 dropped" in capsys.readouterr().out
    ids = {token: index for index, token in enumerate(WORDS)}
    pieces = {
        "walking": ["walk", "##ing"],
        "Unable": ["un", "##able"],
        "##ables": ["##able", "##s"],  # goes on with a word, as its pieces do
        "##ings": WORDS,  # "in" and a rest that the vocabulary cannot spell
        "walk日": ["walk"],  # two words, one of them unknown
        "日": WORDS,
    }
    old, new = model.state_dict(), converted.state_dict()
    for index, token in enumerate(NEW):
        rows = torch.tensor([ids[name] for name in pieces.get(token, [token])])
        for name in (EMBEDDINGS, "cls.predictions.bias"):
            expected = old[name][rows].double().mean(0).float()
            assert torch.allclose(new[name][index], expected, rtol=0, atol=1e-7), token
    assert converted.config.vocab_size == len(NEW)
    assert converted.config.pad_token_id == 1
    shared = [index for index, token in enumerate(NEW) if token in ids]
    before = torch.tensor([[ids[NEW[index]] for index in shared]])
    states = [
        m(input_ids=i, output_hidden_states=True).hidden_states
        for m, i in ((model, before), (converted, torch.tensor([shared])))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("the walking") == ["the", "walking"]


def test_the_same_vocabulary_changes_nothing(model, source, tmp_path, capsys):
    converted = convert(source, tmp_path / "out", "--vocab_file", source / "vocab.txt")
    assert "vocabulary: 20 tokens\n" in capsys.readouterr().out
    assert_same_outputs(model, converted, tolerance=0)


def test_longer(model, source, tmp_path, capsys):
    converted = convert(source, tmp_path / "out", "--max_position_embeddings", "30")
    assert "positions: 30 instead of 12: the old ones repeated" in capsys.readouterr().out
    assert converted.config.max_position_embeddings == 30
    assert_same_outputs(model, converted, tolerance=0)
    rows = converted.bert.embeddings.position_embeddings.weight
    assert torch.equal(rows[12:24], rows[:12]) and torch.equal(rows[24:], rows[:6])
    outputs(converted, sample(length=30))  # runs
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 30


def test_shorter(model, source, tmp_path, capsys):
    converted = convert(source, tmp_path / "out", "--max_position_embeddings", "10")
    assert "positions: 10 instead of 12: the last ones cut off" in capsys.readouterr().out
    assert_same_outputs(model, converted, sample(length=10), tolerance=0)


@pytest.mark.parametrize("number", ["0", "70000"])
def test_numbers_of_positions_that_cannot_be(source, tmp_path, capsys, number):
    command = ["--model", source, "--output_dir", tmp_path / "out"]
    assert exit_code(main, *command, "--max_position_embeddings", number) == 2
    assert "from 1 to 65,536" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tokens", "flags", "expected"),
    [
        (WORDS, [], True),
        ([*WORDS, *"ABC"], [], False),
        (WORDS, ["--no_do_lower_case"], False),
        ([*WORDS, *"ABC"], ["--do_lower_case"], True),
    ],
)
def test_casing(tmp_path, tokens, flags, expected, capsys):
    stock_model(vocab_size=len(tokens)).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf/vocab.txt").write_text("\n".join(tokens) + "\n")
    convert(tmp_path / "hf", tmp_path / "out", *flags)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("WALK") == (["walk"] if expected else ["[UNK]"])
    convert(tmp_path / "out", tmp_path / "again")  # now its tokenizer says it
    assert "(as its tokenizer says)" in capsys.readouterr().out
    assert AutoTokenizer.from_pretrained(tmp_path / "again").tokenize("WALK") == tokenizer.tokenize(
        "WALK"
    )


def test_casing_of_known_vocabularies(shared, vocab_file):
    assert is_lower_cased(Vocabulary.read(vocab_file))


def test_sizes_of_the_sample():
    assert len(WORDS) == SIZES["vocab_size"] == 20
