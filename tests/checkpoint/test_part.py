"""What is copied to be written later: the same file as if it had been written at once."""

import copy
import io

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from gpu_marks import NEEDS_GPU

from ds_bert.checkpoint.part import Part, host_copy


def saved(value) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def state(device="cpu"):
    """Like DeepSpeed's: slices of one vector, shared parts, plain values, an object."""
    flat = torch.arange(1000.0, device=device)
    master = torch.rand(50, device=device, requires_grad=True)
    scaler = DynamicLossScaler(2**16, 2, 1000, 1, 1, dtype=torch.float16)
    shared = {"step": 7, "exp_avg": flat[3:].view(-1)}
    return {
        "module": {"a": flat[:600].view(20, 30).t(), "b": flat[600:]},
        "masters": [master.narrow(0, 0, 40), master],
        "state": (shared, shared, torch.empty(0), torch.tensor(3, dtype=torch.int64)),
        "half": torch.rand(9).to(torch.bfloat16),
        "loss_scaler": scaler,
        "none": None,
    }


def test_the_file_of_a_copy_is_that_of_the_original():
    value = state()
    assert saved(host_copy(value)) == saved(value)


def test_a_naive_copy_makes_another_file():
    """Tensors copied one by one hold more, and one that follows from another cannot be copied."""
    value = state()
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(value)


def test_what_comes_after_does_not_change_a_copy():
    value = state()
    before, copied = saved(value), host_copy(value)
    with torch.no_grad():
        for tensor in (value["module"]["b"], *value["masters"], *value["state"][2:]):
            tensor.zero_()
    value["state"][0]["step"] = 8
    value["loss_scaler"].cur_scale = 1
    value["masters"].append(1)
    assert saved(copied) == before != saved(value)


def test_each_storage_is_copied_once():
    value = state()
    copied = host_copy(value)
    parts = [*copied["module"].values(), copied["state"][0]["exp_avg"]]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
    assert parts[0].untyped_storage().nbytes() == 4000
    assert parts[0].data_ptr() != value["module"]["a"].data_ptr()


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
def test_from_a_gpu_into_pinned_memory(device):
    value = state(device)
    copied = host_copy(value)
    part = copied["module"]["a"]
    assert part.is_pinned() and torch.equal(part, value["module"]["a"].cpu())


def test_a_part_that_writes_later(tmp_path):
    part, value = Part(tmp_path, later=True), {"weights": torch.ones(5)}
    part.save(value, tmp_path / "weights.pt")
    value["weights"].zero_()
    assert not list(tmp_path.iterdir()) and not part.sealed
    part.write()
    assert torch.equal(
        torch.load(tmp_path / "weights.pt", weights_only=True)["weights"], torch.ones(5)
    )
    assert list(part.sealed) == ["weights.pt"]
