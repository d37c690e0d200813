"""Pseudo-perplexity and guesses, against stock transformers sentence by sentence."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_util import random_model
from training_util import make_data
from transformers import BertForMaskedLM

from ds_bert.dataset.store import TokenStore
from ds_bert.evaluation.pseudo_perplexity import score_sentences
from ds_bert.evaluation.samples import _best, fill_masks, sentences

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table(tmp_path_factory, golden):
    return TokenStore.open(make_data(tmp_path_factory.mktemp("data") / "d", golden)).instances(32)


@pytest.fixture(scope="module")
def models():
    """The same weights, ours and stock."""
    ours = random_model("mlm")
    stock = BertForMaskedLM(ours.config).eval()
    stock.load_state_dict(ours.state_dict())
    return ours, stock


def log_shares(stock, vocabulary, tokens, hidden, asked):
    """Log-probabilities of the vocabulary at a place of a sentence with hidden tokens."""
    ids = [vocabulary.mask_id if place in hidden else t for place, t in enumerate(tokens)]
    inputs = torch.tensor([[vocabulary.cls_id, *ids, vocabulary.sep_id]])
    with torch.no_grad():
        return stock(input_ids=inputs).logits[0, asked + 1].log_softmax(-1)


def test_sentences_are_those_of_the_text(table):
    documents, found = table.store.documents, sentences(table, 10**6)
    starts = [
        int(offset) + int(first)
        for number, offset in enumerate(documents.token_offsets[:-1])
        for first in [
            0,
            *documents.sentence_ends[
                int(documents.sentence_offsets[number]) : int(
                    documents.sentence_offsets[number + 1]
                )
            ][:-1],
        ]
    ]
    ends = [*starts[1:], len(documents.tokens)]
    expected = [
        documents.tokens[start:end].tolist()
        for start, end in zip(starts, ends, strict=True)
        if 1 <= end - start <= 30
    ]
    assert sorted(s.tokens.tolist() for s in found) == sorted(expected)
    few = sentences(table, 7)
    assert [s.tokens.tolist() for s in few] == [s.tokens.tolist() for s in found[:7]]


def test_pseudo_perplexity_is_that_of_the_paper(table, models):
    ours, stock = models
    vocabulary = table.store.vocabulary
    total, chosen = {"token": 0.0, "word_l2r": 0.0}, sentences(table, 5)
    for tokens in (sentence.tokens.tolist() for sentence in chosen):
        for place, token in enumerate(tokens):
            end = place + 1
            while end < len(tokens) and vocabulary.tokens[tokens[end]].startswith("##"):
                end += 1
            for way, hidden in (("token", {place}), ("word_l2r", set(range(place, end)))):
                shares = log_shares(stock, vocabulary, tokens, hidden, place)
                total[way] -= shares[token].item()
    number = sum(len(sentence.tokens) for sentence in chosen)
    found = score_sentences(ours, table, CPU, 8, 5)
    assert (found["num_sentences"], found["num_tokens"]) == (5, number)
    assert total["token"] != total["word_l2r"]  # there are words of several tokens
    for way, loss in total.items():
        assert found[way] == pytest.approx(math.exp(loss / number), rel=1e-4)


def test_guesses_are_the_likeliest(table, models):
    ours, stock = models
    vocabulary = table.store.vocabulary
    samples = fill_masks(ours, table, CPU, 4, 6)
    assert len(samples) == 6
    by_length = sentences(table, 6, 6)
    for sample, sentence in zip(samples, by_length, strict=True):
        tokens = sentence.tokens.tolist()
        words = [vocabulary.tokens[token] for token in tokens]
        places = [
            place
            for place, word in enumerate(words)
            if word == sample["truth"] and _text(words, place) == sample["text"]
        ]
        assert len(places) == 1
        shares = log_shares(stock, vocabulary, tokens, set(places), places[0]).exp()
        best = np.argsort(-shares.numpy())[:5]
        assert [g["token"] for g in sample["guesses"]] == [vocabulary.tokens[i] for i in best]
        found = [g["probability"] for g in sample["guesses"]]
        assert found == pytest.approx(shares[best].tolist(), rel=1e-4)
        own = shares[vocabulary.ids[sample["truth"]]].item()
        assert sample["truth_probability"] == pytest.approx(own, rel=1e-4)


def test_what_fills_a_model_up_is_no_guess():
    scores = SimpleNamespace(logits=torch.tensor([[0.0, 3, 2, 9, 9]]), labels=torch.tensor([2]))
    assert _best(3, scores)[0, -3:].tolist() == [1, 2, 0]


def _text(words, place):
    return " ".join([*words[:place], "[MASK]", *words[place + 1 :]]).replace(" ##", "")
