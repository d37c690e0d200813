"""Masks in the recipe: what it says, otherwise what the data set says; stored masks win."""

import numpy as np
import pytest
from training_util import make_data

from ds_bert.checkpoint.facts import BEFORE, OWN_MASKS
from ds_bert.config import TrainingConfig
from ds_bert.dataset.store import TokenStore
from ds_bert.errors import ConfigurationError
from ds_bert.training.batches import TrainingBatches
from ds_bert.training.masks import as_fact, resolve_masks


@pytest.fixture(scope="module")
def table(tmp_path_factory, golden):
    return TokenStore.open(make_data(tmp_path_factory.mktemp("fast") / "data", golden)).instances(
        64
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("exact") / "data"
    return TokenStore.open(make_data(folder, golden, mode="exact")).instances(64)


def config(**fields):
    return TrainingConfig(max_steps=11, **fields)


def step_of(table, number, masks, size=64):
    batches = TrainingBatches(
        table=table,
        train_batch_size=size,
        micro_batch_size=size,
        rank=0,
        world_size=1,
        seed=5,
        masks=masks,
    )
    step = batches.step(number * size)
    assert step.counts["masked_tokens"] == step.micro_batches[0].counts["masked_tokens"]
    return step.micro_batches[0]


def share(batch):
    return len(batch.masked_lm_labels) / batch.num_tokens


def test_nothing_in_the_recipe_is_the_data_set(table):
    masks = resolve_masks(config(), table)
    assert masks.at(0) == masks.at(10) == table.options.masks
    assert as_fact(masks, table) == OWN_MASKS == BEFORE["masks"]
    ours, theirs = step_of(table, 0, masks), step_of(table, 0, None)
    assert ours.input_ids.equal(theirs.input_ids)


def test_another_share_scales_the_limit(table):
    masks = resolve_masks(config(masked_lm_prob=0.3), table)
    assert table.options.max_predictions_per_seq == 10
    assert masks.first.max_predictions_per_seq == 20
    assert share(step_of(table, 0, masks)) == pytest.approx(0.3, abs=0.015)
    assert as_fact(masks, table) == "masked_lm_prob 0.3, max_predictions_per_seq 20"
    kept = resolve_masks(config(masked_lm_prob=0.3, max_predictions_per_seq=10), table)
    assert step_of(table, 0, kept).counts["masked_tokens"] <= 64 * 10


def test_a_schedule_goes_in_equal_steps(table):
    masks = resolve_masks(config(masked_lm_prob=0.4, masked_lm_prob_end=0.1), table)
    shares = [masks.at(step).masked_lm_prob for step in range(11)]
    assert shares[0] == 0.4 and shares[-1] == 0.1 == masks.at(12).masked_lm_prob
    assert np.allclose(np.diff(shares), -0.03)
    assert masks.first.max_predictions_per_seq == round(10 * 0.4 / 0.15)
    found = [share(step_of(table, step, masks)) for step in (0, 5, 10)]
    assert found == pytest.approx([0.4, 0.25, 0.1], abs=0.02)
    assert masks.most.masked_lm_prob == 0.4
    assert as_fact(masks, table).endswith("masked_lm_prob_end 0.1")


def test_a_schedule_from_the_share_of_the_data(table):
    masks = resolve_masks(config(masked_lm_prob_end=0.45), table)
    assert (masks.at(0).masked_lm_prob, masks.at(10).masked_lm_prob) == (0.15, 0.45)
    assert masks.first.max_predictions_per_seq == 30


def test_shares_of_what_is_shown(table):
    fields = {"masked_lm_prob": 0.5, "mask_replace_prob": 0.3, "random_replace_prob": 0.6}
    batch = step_of(table, 0, resolve_masks(config(**fields), table))
    shown, labels = batch.input_ids[batch.masked_lm_positions], batch.masked_lm_labels
    is_mask, is_same = shown == table.store.vocabulary.mask_id, shown == labels
    assert is_mask.float().mean() == pytest.approx(0.3, abs=0.04)
    assert is_same.float().mean() == pytest.approx(0.1, abs=0.03)


def test_whole_words(table):
    batch = step_of(table, 0, resolve_masks(config(do_whole_word_mask=True), table))
    pieces = table.store.vocabulary.is_continuation[batch.masked_lm_labels.numpy()]
    positions = batch.masked_lm_positions.numpy()
    assert pieces.any()
    # The piece before a masked piece of the same word is masked as well.
    vocabulary, before = table.store.vocabulary, positions[pieces] - 1
    special = np.isin(batch.input_ids.numpy()[before], [vocabulary.cls_id, vocabulary.sep_id])
    assert (np.isin(before, positions) | special).all()


def test_units(table, golden, tmp_path):
    """The recipe's, also over data with another one; a checkpoint is told what has changed."""
    masks = resolve_masks(config(masking_unit="span"), table)
    assert masks.first.unit == "span" and "spans of 1 to 10" in str(masks)
    assert as_fact(masks, table) == "do_whole_word_mask True, masking_unit span"
    positions = step_of(table, 0, masks).masked_lm_positions.numpy()
    assert (np.diff(positions) == 1).mean() > 0.5
    # As a run of before there were units says it.
    words = resolve_masks(config(masking_unit="word"), table)
    assert words == resolve_masks(config(do_whole_word_mask=True), table)
    assert as_fact(words, table) == "do_whole_word_mask True"
    spans = TokenStore.open(make_data(tmp_path / "spans", golden, masking_unit="span"))
    table = spans.instances(64)
    assert resolve_masks(config(), table).first.unit == "span"
    assert as_fact(resolve_masks(config(masking_unit="span"), table), table) == OWN_MASKS
    for fields in ({"masking_unit": "word"}, {"do_whole_word_mask": True}):
        masks = resolve_masks(config(**fields), table)
        assert masks.first.unit == "word"
        assert as_fact(masks, table) == "masking_unit word"


@pytest.mark.parametrize(
    "fields",
    [
        {"masking_unit": "words"},
        {"masked_lm_prob": 0.0},
        {"masked_lm_prob": 1.0},
        {"masked_lm_prob_end": 1.5},
        {"max_predictions_per_seq": 0},
        {"max_predictions_per_seq": 62},
        {"mask_replace_prob": 0.95},  # with 0.1 random more than all
        {"random_replace_prob": -0.1},
    ],
)
def test_values_without_a_meaning(table, fields):
    (name,) = fields
    with pytest.raises(ConfigurationError, match=name):
        resolve_masks(config(**fields), table)


def test_stored_masks_win(stored):
    masks = resolve_masks(config(masked_lm_prob=0.15, mask_replace_prob=0.8), stored)
    assert masks.first == stored.options.masks
    resolve_masks(config(masking_unit="piece", do_whole_word_mask=False), stored)
    for fields in (
        {"masked_lm_prob": 0.3},
        {"masked_lm_prob_end": 0.1},
        {"mask_replace_prob": 1.0},
        {"masking_unit": "span"},
    ):
        (name,) = fields
        with pytest.raises(ConfigurationError, match=f"{name} is .* are stored"):
            resolve_masks(config(**fields), stored)


def test_data_without_a_mask(golden, tmp_path):
    folder = make_data(tmp_path / "data", golden, mode="exact", max_predictions_per_seq=(0, 0))
    with pytest.raises(ConfigurationError, match="has no masked token"):
        resolve_masks(config(), TokenStore.open(folder).instances(64))


def test_words_tell_all(table):
    text = str(resolve_masks(config(masked_lm_prob=0.3, masked_lm_prob_end=0.1), table))
    assert "30.0% to 10.0%" in text and "at most 20" in text and "80% as [MASK]" in text
