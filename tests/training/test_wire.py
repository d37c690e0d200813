"""What an optimizer step sends to other ranks: counted in real runs, against the formula."""

import pytest
import torch
from collectives import Collectives, bytes_of_a_rank
from distributed_util import join_group, run_ranks
from training_util import MODEL, make_data
from transformers import BertConfig, BertForPreTraining
from wire_cases import count_steps, write_wire_recipe

RANKS = 4
LARGER = MODEL | {"num_hidden_layers": 4}
WIDTH = {"float32": 4, "float16": 2, "bfloat16": 2}
FLAGS = 6  # whether to stop, to save and the like, as int32
# By case of `wire_cases`: dtypes of gradients and weights on the wire, parameter groups.
STAGE_1 = {
    "bf16": ("float32", "bfloat16", 1),
    "bf16, AdamW": ("float32", "bfloat16", 2),
    "fp16": ("float16", "float16", 1),
    "fp32, several micro-batches": ("float32", "float32", 1),
}
STAGE_0, EARLY = "fp32, stage 0", "bf16, overlap_comm"


def sizes(model):
    """Number of tensors, and elements of those with and of those without weight decay."""
    with torch.device("meta"):
        parameters = list(BertForPreTraining(BertConfig(**model)).parameters())
    decayed = sum(p.numel() for p in parameters if p.dim() > 1)
    return len(parameters), [decayed, sum(p.numel() for p in parameters) - decayed]


def padded(num_elements):
    return -(-num_elements // (2 * RANKS)) * 2 * RANKS


def least(name, model=MODEL):
    """Each sum goes to the rank that needs it and each weight comes from it, once.

    Beside that the gradients' norm, LAMB's two norms of each tensor in one message, and flags.
    """
    tensors, groups = sizes(model)
    gradients, weights, num_groups = STAGE_1[name]
    groups = groups if num_groups == 2 else [sum(groups)]
    elements = sum(padded(size) for size in groups)
    is_lamb = num_groups == 1
    counted = {
        ("reduce-scatter", gradients): (num_groups, WIDTH[gradients] * elements),
        ("all-gather", weights): (num_groups, WIDTH[weights] * elements),
        ("all-reduce", "float32"): (1 + is_lamb, 4 + is_lamb * 2 * 4 * tensors),
        ("all-reduce", "int32"): (1, 4 * FLAGS),
    }
    overflow = {("all-reduce", "uint8"): (1, 1)}
    return counted | (overflow if name == "fp16" else {})


@pytest.fixture(scope="module")
def counted(tmp_path_factory, golden):
    """By case, and by "larger" for the first of them: what each rank has counted."""
    folder = tmp_path_factory.mktemp("wire")
    data = make_data(folder / "data", golden)
    runs = {name: (name, MODEL) for name in (*STAGE_1, STAGE_0, EARLY)} | {
        "larger": ("bf16", LARGER)
    }
    recipes = []
    for key, (name, model) in runs.items():
        (own := folder / key).mkdir()
        recipes.append(str(write_wire_recipe(own, data, model, name, RANKS)))
    answers = zip(*run_ranks(count_steps, RANKS, recipes), strict=True)
    return dict(zip(runs, answers, strict=True))


@pytest.mark.parametrize("name", STAGE_1)
def test_fewest_bytes_and_messages(name, counted):
    for found in counted[name]:
        assert found == least(name)


def test_messages_do_not_grow_with_the_number_of_tensors(counted):
    for found in counted["larger"]:
        assert found == least("bf16", LARGER)


def test_stage_0_sends_sums_to_all(counted):
    found = counted[STAGE_0][0]
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert found["all-reduce", "float32"][1] == pytest.approx(4 * sum(sizes(MODEL)[1]), abs=8)


def test_sums_on_their_way_during_the_backward_pass_cost_a_ranks_part_more(counted):
    elements = padded(sum(sizes(MODEL)[1]))
    for found in counted[EARLY]:
        buckets, num_bytes = found.pop(("reduce-scatter", "float32"))
        assert buckets == -(-elements // 20_000) and num_bytes == 4 * elements
        assert found.pop(("all-to-all", "float32")) == (1, 4 * elements // RANKS)
        expected = least("bf16")
        del expected["reduce-scatter", "float32"]
        assert found == expected


def test_bytes_of_a_ring(counted):
    elements = padded(sum(sizes(MODEL)[1]))
    for name, width in (("bf16", 4 + 2), ("fp16", 2 + 2)):
        found = bytes_of_a_rank(counted[name][0], RANKS)
        assert found == pytest.approx(width * elements * (RANKS - 1) / RANKS, rel=0.01)


def test_the_count_sees_what_is_sent():
    join_group()
    values = torch.zeros(3)
    with Collectives() as found:
        torch.distributed.all_reduce(values)
        torch.distributed.reduce_scatter_tensor(values, values)
    expected = {("all-reduce", "float32"): (1, 12), ("reduce-scatter", "float32"): (1, 12)}
    assert found.found() == expected
    assert bytes_of_a_rank(expected, 4) == 12 * 3 / 4 * (2 + 1)
