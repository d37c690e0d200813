"""The unpadded model is stock BertForPreTraining: same losses, same gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_util import make_store
from training_util import padded
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

from ds_bert.model.batch import make_batch
from ds_bert.model.bert import BertForUnpaddedMaskedLM, BertForUnpaddedPreTraining
from ds_bert.model.encoder import Encoder

CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def batch(tmp_path_factory, golden):
    store = make_store(
        tmp_path_factory.mktemp("model") / "data",
        golden / "inputs/en_a.txt",
        golden / "vocab/uncased_vocab.txt",
        max_seq_length=(64,),
    )
    indices = np.arange(12)
    return make_batch(store.instances(64), indices, np.zeros_like(indices), seed=1)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    ours = BertForUnpaddedPreTraining(BertConfig(vocab_size=1500, **CONFIG))
    stock = BertForPreTraining(BertConfig(vocab_size=1500, **CONFIG))  # a config of its own
    stock.load_state_dict(ours.state_dict())
    return ours, stock


def our_loss(model, batch):
    sums = model(batch)
    masked_lm = sums["mlm"].loss / len(batch.masked_lm_labels)
    return masked_lm + sums["nsp"].loss / batch.num_sequences


def test_loss_equals_that_of_transformers(models, batch):
    ours, stock = (model.eval() for model in models)
    with torch.no_grad():
        expected = stock(**padded(batch)).loss
        torch.testing.assert_close(our_loss(ours, batch), expected, rtol=1e-6, atol=0)


def test_accuracies_equal_those_of_transformers(models, batch):
    ours, stock = (model.eval() for model in models)
    inputs = padded(batch)
    with torch.no_grad():
        sums, expected = ours(batch), stock(**inputs)
    hits = expected.prediction_logits.argmax(-1) == inputs["labels"]
    assert sums["mlm"].correct == hits.sum()
    hits = expected.seq_relationship_logits.argmax(-1) == batch.next_sentence_labels
    assert sums["nsp"].correct == hits.sum()


def test_gradients_equal_those_of_transformers(models, batch):
    ours, stock = (model.eval() for model in models)  # without dropout
    for model in models:
        model.zero_grad()
    our_loss(ours, batch).backward()
    stock(**padded(batch)).loss.backward()
    expected = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-7)


def test_sequences_do_not_see_each_other(models, batch):
    ours = models[0].eval()
    first = batch.sequence_lengths[0]
    changed = batch.input_ids.clone()
    changed[first:] = 7
    with torch.no_grad():
        before = Encoder()(ours.bert, batch)
        after = Encoder()(ours.bert, replace(batch, input_ids=changed))
    assert torch.equal(before[:first], after[:first])
    assert not torch.equal(before[first:], after[first:])


def test_padding_of_a_packed_batch_counts_for_nothing(models, batch):
    ours = models[0].eval()
    sums, gradients = [], []
    for variant in (batch, batch.padded(128)):
        ours.zero_grad()
        sums.append(ours(variant))
        our_loss(ours, variant).backward()
        gradients.append([parameter.grad.clone() for parameter in ours.parameters()])
    assert len(batch.input_ids) < len(batch.padded(128).input_ids)
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_padding_makes_no_sequence_of_length_zero(batch):
    exact = batch.padded(len(batch.input_ids))
    assert len(exact.input_ids) == len(batch.input_ids)
    for variant in (exact, batch.padded(128), batch.padded(128).padded(1)):
        assert (variant.cu_seqlens.diff() > 0).all()


def test_dropout_is_on_in_training(models, batch):
    ours = models[0].train()
    with torch.no_grad():
        assert ours(batch)["mlm"].loss != ours(batch)["mlm"].loss


def test_parameter_names_are_those_of_transformers(models):
    ours, stock = models
    assert list(ours.state_dict()) == list(stock.state_dict())


def test_masked_lm_alone_equals_that_of_transformers(batch):
    """One segment or two: what differs is the model, not what it may be shown."""
    torch.manual_seed(0)
    ours = BertForUnpaddedMaskedLM(BertConfig(vocab_size=1500, **CONFIG)).eval()
    stock = BertForMaskedLM(BertConfig(vocab_size=1500, **CONFIG)).eval()
    stock.load_state_dict(ours.state_dict())
    sums = ours(batch)
    assert sums.keys() == ours.losses.keys() == {"mlm"}
    loss = sums["mlm"].loss / len(batch.masked_lm_labels)
    inputs = {name: x for name, x in padded(batch).items() if name != "next_sentence_label"}
    expected = stock(**inputs).loss
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    loss.backward()
    expected.backward()
    for (name, found), wanted in zip(ours.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-7, msg=name)
