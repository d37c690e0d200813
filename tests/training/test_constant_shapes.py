"""`constant_shapes`: every micro-batch of a run has one shape, and its steps are what they were."""

import json

import pytest
import torch
from data_util import exit_code
from distributed_util import run_ranks
from torch._dynamo.testing import CompileCounter
from training_util import MODEL, make_data, write_recipe
from transformers import BertConfig

from ds_bert import distributed
from ds_bert.batching.packing import choose_shape
from ds_bert.commands.train import main
from ds_bert.dataset.store import TokenStore
from ds_bert.model.bert import BertForUnpaddedPreTraining
from ds_bert.training.batches import TrainingBatches
from ds_bert.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_process_group")
STILL = MODEL | dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
SHORT = {"short_seq_prob": 0.5}  # otherwise nearly all sequences of so small a data set are full
KINDS = {
    "single tokens": {},
    "spans": {"masking_unit": "span"},
    "stored": {"mode": "exact", "dupe_factor": 2},
}


@pytest.fixture(scope="module", params=KINDS)
def table(request, tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("data") / "train"
    return TokenStore.open(make_data(folder, golden, **SHORT, **KINDS[request.param])).instances(32)


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden, **SHORT)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BertForUnpaddedPreTraining(BertConfig(**STILL))


def batches(table, rank=0, world_size=1, is_constant=True):
    return TrainingBatches(
        table=table, train_batch_size=16, micro_batch_size=4, rank=rank, world_size=world_size,
        seed=3, constant_shapes=is_constant,
    )  # fmt: skip


def steps_of_an_epoch(table, **options):
    made = batches(table, **options)
    return [made.step(16 * number) for number in range(len(table) // 16 + 1)]


def shapes(batch):
    """Of all tensors, and the number that attention is told."""
    tensors = {name: value.shape for name, value in vars(batch).items() if torch.is_tensor(value)}
    return (*tensors.items(), batch.max_length)


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_has_one_shape(table, world_size):
    steps = [
        steps_of_an_epoch(table, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    micro_batches = [batch for part in steps for step in part for batch in step.micro_batches]
    assert len(set(map(shapes, micro_batches))) == 1
    shape = batches(table, world_size=world_size).shape
    first = micro_batches[0]
    assert len(first.input_ids) == len(first.position_ids) == shape.num_tokens
    assert len(first.cu_seqlens) == shape.num_sequences + 1
    assert len(first.masked_lm_labels) == len(first.masked_lm_positions) == shape.num_masked
    for batch in micro_batches:
        assert batch.cu_seqlens[-1] == shape.num_tokens
        assert batch.cu_seqlens.diff().min() >= 1 and batch.cu_seqlens.diff().max() <= 32
    for of_ranks in zip(*steps, strict=True):
        assert len({len(step.micro_batches) for step in of_ranks}) == 1


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_holds_the_same_rows_and_masks(table, world_size):
    def rows_and_labels(is_constant):
        found, counts = [], []
        for rank in range(world_size):
            made = batches(table, rank, world_size, is_constant)
            for step in map(made.step, range(0, 160, 16)):
                counts.append(step.counts)
                for batch, rows in zip(step.micro_batches, step.rows, strict=True):
                    borders, labels = batch.cu_seqlens, batch.masked_lm_labels
                    for row, first, last in zip(rows, borders, borders[1:], strict=False):
                        positions = batch.masked_lm_positions
                        own = labels[(first <= positions) & (positions < last)]
                        shown = batch.input_ids[first:last].tolist()
                        found.append((step.first_sample, row, shown, own.tolist()))
        return sorted(found), sorted(counts, key=str)

    assert rows_and_labels(True) == rows_and_labels(False)


def test_padding_counts_for_nothing(table, model):
    plain = batches(table, is_constant=False).step(0).micro_batches[0]
    padded = plain.padded_to(batches(table).shape)
    assert padded.num_tokens < len(padded.input_ids)
    assert padded.counts == plain.counts
    assert model.flops(padded) == model.flops(plain)
    found = []
    for batch in (plain, padded):
        model.zero_grad()
        sums = model(batch)
        sum(each.loss for each in sums.values()).backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        found.append((sums, gradients))
    (sums, gradients), (padded_sums, padded_gradients) = found
    for name, each in sums.items():
        torch.testing.assert_close(padded_sums[name].loss, each.loss, rtol=1e-6, atol=0)
        assert padded_sums[name].correct == each.correct
    torch.testing.assert_close(padded_gradients, gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_constant", [True, False])
def test_code_compiled_for_fixed_shapes_sees_one_set_of_them(data, is_constant):
    table = TokenStore.open(data).instances(32)
    model, counter = BertForUnpaddedPreTraining(BertConfig(**STILL)), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model._encode._layer, dynamic=False, backend=counter)
    model._encode._layer = compiled
    number_of = []
    with torch.no_grad():
        for step in steps_of_an_epoch(table, is_constant=is_constant)[:4]:
            for batch in step.micro_batches:
                model(batch)
                number_of.append(counter.frame_count)
    assert number_of[0] > 0
    assert (number_of[-1] == number_of[0]) is is_constant


def train(folder, data, is_constant):
    """The rows of a run of six steps."""
    distributed.shutdown = lambda: None
    section = {"max_steps": 6, "log_interval": 1, "validation_data": ""}
    section["constant_shapes"] = is_constant
    if distributed.rank() == 0:
        sizes = {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 8}
        write_recipe(folder, data, section=section, **sizes)
        (folder / "model.json").write_text(json.dumps(STILL))
    distributed.barrier()
    assert exit_code(main, "--ds_config", folder / "recipe.json") == 0
    return [json.loads(row) for row in (folder / "run/metrics.jsonl").read_text().splitlines()]


def check_same_losses(plain, constant):
    assert len(plain) == len(constant) == 6
    for one, other in zip(plain, constant, strict=True):
        for name in ("num_sequences", "num_masked_tokens", "num_tokens", "samples"):
            assert one[name] == other[name]
        for name in ("mlm_loss", "nsp_loss", "gradient_norm", "mlm_accuracy", "masked_share"):
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
    assert constant[-1]["loss"] < constant[0]["loss"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, data):
    return train(tmp_path_factory.mktemp("plain"), data, False)


@pytest.mark.parametrize("share", [1, 0.85])
def test_a_run_has_the_same_losses(tmp_path, data, plain, capsys, monkeypatch, share):
    """Also where most steps are too long for the shape, and take a micro-batch more."""

    def choose(*args):
        shape = choose_shape(*args)
        return shape._replace(num_tokens=int(share * shape.num_tokens))

    def step(trainer, step, original=Trainer._step):
        numbers.append(len(step.micro_batches))
        original(trainer, step)

    numbers = []
    monkeypatch.setattr("ds_bert.training.batches.choose_shape", choose)
    monkeypatch.setattr(Trainer, "_step", step)
    check_same_losses(plain, train(tmp_path, data, True))
    assert "shape of micro-batches: " in capsys.readouterr().out
    assert (max(numbers) > 2) is (share < 1)


def test_a_run_on_two_ranks_has_the_same_losses(tmp_path, data, plain):
    check_same_losses(plain, run_ranks(train, 2, tmp_path, data, True)[0])
