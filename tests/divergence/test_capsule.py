"""A capsule on disk: what comes back, names, and disks that fail."""

import errno
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from ds_bert.batching.packing import Shape
from ds_bert.divergence import capsule
from ds_bert.divergence.capsule import MicroBatch, newest_divergence, read_diagnosis, write_capsule
from ds_bert.errors import CheckpointError
from ds_bert.model.batch import Batch
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

FOUND = {"reason": "why", "first_step": 3, "last_step": 4, "samples": [16, 32], "date": "1"}


def micro_batch():
    """Two rows of 3 and 2 tokens, padded to 8."""
    ids = torch.arange(8, dtype=torch.int32)
    borders = torch.tensor([0, 3, 5, 8], dtype=torch.int32)
    few = ids.long()[:2]
    batch = Batch(ids, ids, ids, borders, few, few, torch.tensor([1, 0]), [3, 2])
    return MicroBatch(
        batch, np.array([5, 7]), np.zeros(2, np.int64), {"cpu": torch.get_rng_state()}
    )


def write_model(folder):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x" * 1000)


def write(run, write_model=write_model, num_bytes=1000, **found):
    vocabulary = Vocabulary(SPECIAL_TOKENS)
    return write_capsule(run, FOUND | found, [micro_batch()], vocabulary, write_model, num_bytes)


def names(run):
    return sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())


WHOLE = ["diagnosis.json", "model/model.safetensors", "rank_0.safetensors", "vocab.txt"]


def test_what_is_written_comes_back(tmp_path):
    folder = write(tmp_path)
    assert names(folder) == WHOLE
    assert read_diagnosis(folder) == {"capsule": "step_4", **FOUND, "not_kept": []}
    (found,) = capsule.read_micro_batches(folder, 0)
    expected = micro_batch()
    assert found.batch.sequence_lengths == [3, 2]
    assert all(found.tensors()[n].equal(t) for n, t in expected.tensors().items() if n[0] != "r")
    assert (found.rows == expected.rows).all() and found.random_state.keys() == {"cpu"}


def test_a_padded_batch_comes_back():
    batch = make_padded()
    found = MicroBatch.of_tensors(replace(micro_batch(), batch=batch).tensors()).batch
    assert found.counts == batch.counts == {"sequences": 2, "masked_tokens": 2, "tokens": 5}
    assert found.max_length >= 3 and found.masked_lm_labels.equal(batch.masked_lm_labels)


def make_padded():
    ids, borders = torch.arange(5, dtype=torch.int32), torch.tensor([0, 3, 5], dtype=torch.int32)
    few = ids.long()[:2]
    batch = Batch(ids, ids, ids, borders, few, few, torch.tensor([1, 0]), [3, 2])
    return batch.padded_to(Shape(12, 5, 3, 6, 3))


def test_names(tmp_path):
    """The same samples again take the same place, others do not."""
    assert write(tmp_path).name == "step_4"
    assert write(tmp_path, date="2").name == "step_4"
    assert read_diagnosis(tmp_path / "diverged/step_4")["date"] == "2"
    assert write(tmp_path, samples=[40, 56], date="3").name == "step_4.2"
    assert sorted(p.name for p in (tmp_path / "diverged").iterdir()) == ["step_4", "step_4.2"]
    newest = newest_divergence(tmp_path)
    assert (newest.capsule, newest.samples, newest.reason) == ("step_4.2", (40, 56), "why")


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_of_rust(*_):
    raise SafetensorError("Error while serializing: I/O error: No space left on device")


def half_a_model(folder):
    write_model(folder)
    full_disk()


def test_weights_that_do_not_fit(tmp_path, capsys):
    folder = write(tmp_path, half_a_model)
    assert names(folder) == [name for name in WHOLE if "model" not in name]
    assert "No space left" in read_diagnosis(folder)["not_kept"][0]
    assert "warning: " in capsys.readouterr().out


def test_weights_that_would_fill_the_disk(tmp_path, monkeypatch):
    room = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1999), rmtree=shutil.rmtree)
    monkeypatch.setattr(capsule, "shutil", room)
    folder = write(tmp_path)
    assert names(folder) == [name for name in WHOLE if "model" not in name]
    assert "MB are free" in read_diagnosis(folder)["not_kept"][0]


@pytest.mark.parametrize("failure", [full_disk, full_disk_of_rust])
def test_micro_batches_that_do_not_fit(tmp_path, monkeypatch, failure):
    monkeypatch.setattr(capsule, "save_file", failure)
    folder = write(tmp_path)
    assert names(folder) == [name for name in WHOLE if "rank" not in name]
    with pytest.raises(CheckpointError, match=r"rank_0.safetensors: cannot be read"):
        capsule.read_micro_batches(folder, 0)


@pytest.mark.parametrize("place", ["_new_folder", "files.as_json"])
def test_nothing_half_written_stays(tmp_path, monkeypatch, capsys, place):
    monkeypatch.setattr(f"ds_bert.divergence.capsule.{place}", full_disk)
    assert write(tmp_path) is None
    assert names(tmp_path) == []
    assert "nothing could be kept (No space left on device)" in capsys.readouterr().out


def test_a_kill_leaves_nothing_that_counts(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(capsule.os, "rename", killed)
        write(tmp_path)
    assert newest_divergence(tmp_path) is None
    assert write(tmp_path) == tmp_path / "diverged/step_4"
    assert [p.name for p in (tmp_path / "diverged").iterdir()] == ["step_4"]
