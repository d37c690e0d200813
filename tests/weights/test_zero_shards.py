"""DeepSpeed's checkpoints: fp32 weights put together from the shards of all ranks."""

import json
import shutil

import pytest
import torch
from data_util import exit_code
from distributed_util import run_ranks
from transformers import BertForPreTraining
from weights_util import SIZES, WORDS, assert_same_outputs, sample, stock_model

from ds_bert.commands.convert_model import main
from ds_bert.errors import CheckpointError
from ds_bert.weights.zero_shards import read_shards

STAGES = {
    "stage_0": {"zero_optimization": {"stage": 0}},
    "stage_1": {
        "zero_optimization": {"stage": 1},
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
    },
    "stage_2": {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}},
    "stage_3": {
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "bf16": {"enabled": True},
    },
}


def train(folder, stages):
    """Two steps with each configuration, on each rank; returns the fp32 weights after them."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    results = {}
    for name, settings in stages.items():
        model = stock_model()
        decayed = [p for p in model.parameters() if p.ndim > 1]
        rest = [p for p in model.parameters() if p.ndim == 1]
        groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=1e-2)
        both = {"train_micro_batch_size_per_gpu": 3, "zero_allow_untested_optimizer": True}
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=both | settings)
        labels = torch.full_like(sample()["input_ids"], 7)
        for _ in range(2):
            result = engine(**sample(), labels=labels, next_sentence_label=torch.tensor([0, 1, 1]))
            engine.backward(result.loss)
            engine.step()
        weights = {}
        for parameter_name, parameter in engine.module.named_parameters():
            full = safe_get_full_fp32_param(parameter)
            weights[parameter_name] = (parameter if full is None else full).detach().clone().cpu()
        results[name] = weights
        engine.save_checkpoint(f"{folder}/{name}", tag="global_step2", client_state={"epoch": 1})
    return results


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of each configuration by two ranks, and the weights that it holds."""
    folder = tmp_path_factory.mktemp("zero")
    weights = run_ranks(train, 2, str(folder), STAGES)[0]
    for name in STAGES:
        (folder / name / "bert_config.json").write_text(json.dumps(SIZES))
        (folder / name / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder, weights


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("where", ["root", "tag", "file"])
def test_weights_of_all_ranks(trained, tmp_path, capsys, name, where):
    folder, weights = trained
    source = folder / name / {"root": "", "tag": "global_step2"}.get(where, "global_step2")
    if where == "file":
        source = next(source.glob("*model_states.pt"))
    command = ["--model", source, "--output_dir", tmp_path / "out"]
    assert exit_code(main, *command) == 0
    assert "found: DeepSpeed checkpoint" in capsys.readouterr().out
    converted = BertForPreTraining.from_pretrained(tmp_path / "out")
    for parameter_name, parameter in converted.named_parameters():
        assert torch.equal(parameter, weights[name][parameter_name]), parameter_name
    expected = stock_model()
    expected.load_state_dict(weights[name], strict=False)
    assert_same_outputs(expected, converted, tolerance=0)


@pytest.fixture
def copy(trained, tmp_path):
    """A checkpoint to damage."""
    shutil.copytree(trained[0] / "stage_2", tmp_path / "zero")
    return tmp_path / "zero/global_step2"


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt", "shards of 1 ranks .* written by 2"),
        ("mp_rank_00_model_states.pt", "has no mp_rank_00_model_states.pt"),
    ],
)
def test_a_file_is_missing(copy, lost, message):
    (copy / lost).unlink()
    with pytest.raises(CheckpointError, match=message):
        read_shards(copy)


def test_a_shard_that_is_damaged(copy, tmp_path, capsys):
    shard = copy / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert exit_code(main, "--model", copy, "--output_dir", tmp_path / "out") == 4
    shown = capsys.readouterr().err
    assert f"{shard} is damaged" in shown and "Traceback" not in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zero"]


def test_shards_of_two_checkpoints(copy, tmp_path):
    shard = copy / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    content = torch.load(shard, weights_only=False)
    parts = content["optimizer_state_dict"]["single_partition_of_fp32_groups"]
    content["optimizer_state_dict"]["single_partition_of_fp32_groups"] = [p[:-50] for p in parts]
    torch.save(content, shard)
    with pytest.raises(CheckpointError, match="do not fit together"):
        read_shards(copy)


def test_layer_norms_before_the_blocks(copy, tmp_path, capsys):
    """Refused whatever its configuration says, even where there is none."""
    path = copy / "mp_rank_00_model_states.pt"
    content = torch.load(path, weights_only=False)
    content["module"]["bert.encoder.layer.0.PreAttentionLayerNorm.weight"] = torch.ones(16)
    torch.save(content, path)
    (copy.parent / "bert_config.json").unlink()
    assert exit_code(main, "--model", copy, "--output_dir", tmp_path / "out") == 4
    assert "pre-LN" in capsys.readouterr().err


def test_names_of_early_versions(trained, copy, tmp_path):
    """DeepSpeed 0.3 has no underscore in a shard's name."""
    for path in copy.glob("*_optim_states.pt"):
        name = path.name.removeprefix("bf16_").replace("_optim_states", "optim_states")
        path.rename(copy / name)
    weights, _ = read_shards(copy)
    expected = trained[1]["stage_2"]
    assert expected.keys() <= weights.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_padding_after_each_weight(tmp_path):
    """As newer versions align weights: groups of shapes, and what to leave out after each."""
    shapes = [{"a": torch.Size([2, 3]), "b": torch.Size([3])}, {"c": torch.Size([2])}]
    torch.save({"module": {}, "param_shapes": shapes}, tmp_path / "mp_rank_00_model_states.pt")
    flat = [torch.arange(12.0), torch.arange(100.0, 104.0)]  # 6 + 2, 3 + 1; 2 + 2
    for rank in range(2):
        state = {
            "single_partition_of_fp32_groups": [part.chunk(2)[rank] for part in flat],
            "param_alignment_paddings": [[2, 1], [2]],
            "partition_count": [2, 2],
        }
        name = f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": state}, tmp_path / name)
    weights, _ = read_shards(tmp_path)
    assert weights["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert weights["b"].tolist() == [8, 9, 10] and weights["c"].tolist() == [100, 101]
