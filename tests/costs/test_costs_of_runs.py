"""Hours, memory, GPUs by name, contradictions: against arithmetic by hand."""

from dataclasses import replace

import pytest

from ds_bert.costs import memory
from ds_bert.costs.contradictions import contradictions
from ds_bert.costs.gpus import KNOWN, named
from ds_bert.costs.hours import Speed, Work, price, seconds, steps_within
from ds_bert.costs.memory import Rank
from ds_bert.costs.options import Questions
from ds_bert.costs.shipped import within
from ds_bert.errors import ConfigurationError
from ds_bert.model.flops import PEAK_TFLOPS

WORK = Work(
    max_steps=1000,
    warmup_steps=100,
    train_batch_size=256,
    flops=2e9,
    tokens=96.0,
    max_seq_length=128,
    num_rows=128_000,
    eval_sequences=300,
    eval_interval=400,
    save_interval=500,
    save_seconds=4.0,
)
SPEED = Speed(1e10, "by hand")
LARGE = {
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 30_528,
}
RANK = Rank(
    model=LARGE,
    num_parameters=336_000_000,
    precision="bf16",
    sums_in_fp32=True,
    stage=1,
    world_size=8,
    state_bytes=8,
    bucket_elements=500_000_000,
    micro_batch_size=64,
    eval_batch_size=32,
    max_seq_length=128,
    masked_share=0.15,
    is_gpu=True,
)


def test_hours_by_hand():
    """256,000 sequences of 0.2 s; validations at 400, 800, 1,000 a third as dear; two saves."""
    found = seconds(WORK, SPEED)
    assert found.training == pytest.approx(51_200)
    assert found.validation == pytest.approx(3 * 300 * 0.2 / 3)
    assert found.saves == 8.0
    assert WORK.total_flops == pytest.approx((256_000 + 300) * 2e9)
    assert price(7200, 8, 2.5) == 40.0


def test_steps_within_a_time():
    assert steps_within(WORK, SPEED, seconds(WORK, SPEED).total / 2) == 500
    assert steps_within(WORK, SPEED, 1e9) == 1000


def test_memory_by_hand():
    """ZeRO 1 in bf16: 2 bytes of weights and 4 of sums on all, 12 shared out among 8 ranks."""
    found, n = memory.parts(RANK), 336e6
    assert found["weights"] == 2 * n and found["gradients"] == 4 * n
    assert "average" not in found
    assert memory.parts(replace(RANK, average_bytes=4))["average"] == 4 * n / 8
    assert found["masters"] == 4 * n / 8 and found["moments"] == 8 * n / 8
    tokens = 64 * 128
    assert found["activations"] == pytest.approx(tokens * 1024 * (24 * 32.5 + 4 * 2))
    assert found["head"] == pytest.approx(2 * 30_528 * 0.15 * tokens)


def test_memory_of_fp32_on_a_cpu():
    rank = replace(RANK, precision="fp32", sums_in_fp32=False, is_gpu=False, world_size=1)
    found, n = memory.parts(rank, process=5e8), 336e6
    persistent = ("weights", "masters", "moments", "gradients")
    assert sum(found[name] for name in persistent) == (4 + 4 + 8 + 12) * n
    assert found["program"] == 5e8 + 0.12e9
    assert found["fragments"] == found["activations"] + found["head"]
    # Attention's squares are kept there: twice the length, more than twice the bytes.
    longer = replace(rank, max_seq_length=256)
    assert memory.activations(longer) > 2.05 * memory.activations(rank)


def test_deepspeeds_bucket_takes_its_room_on_a_gpu():
    sixteen = replace(RANK, precision="fp16", sums_in_fp32=False)
    assert memory.parts(sixteen)["buffers"] - memory.parts(RANK)["buffers"] == 2 * 500_000_000


@pytest.mark.parametrize(
    "text, number, kind",
    [("8xH100", 8, "H100"), ("a100", 1, "A100"), ("2 x rtx4090", 2, "RTX4090")],
)
def test_gpus_by_name(text, number, kind):
    found = named(text)
    assert (found.number, found.kind) == (number, kind)
    assert found.peak == PEAK_TFLOPS[KNOWN[kind][0]] * 1e12


@pytest.mark.parametrize("text", ["8xH1000", "0xH100", "", "H100x8x2"])
def test_other_gpus_are_refused(text):
    with pytest.raises(ConfigurationError, match="expected a number and a GPU such as 8xH100"):
        named(text)


def told(work=WORK, needed=1e9, speed=None, batch=None):
    return [found.text for found in contradictions(work, needed, 8e9, speed, batch)]


def test_a_run_without_contradictions():
    assert told(speed=SPEED) == []


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"num_rows": 100}, "a step takes 256 sequences, the data set has 100"),
        ({"max_steps": 4000}, "repeated 8.0 times"),
        ({"warmup_steps": 600}, "warm-up takes 600 of 1,000"),
        ({"eval_interval": 1001}, "eval_interval 1,001 is longer than the run"),
        ({"save_interval": 1001}, "save_interval 1,001 is longer than the run"),
        ({"eval_sequences": 0}, "no validation data"),
        ({"max_seconds": 1000.0}, "within the warm-up of 100"),
        ({"max_seconds": 25_636.0}, "max_time ends at about step 500 of 1,000"),
    ],
)
def test_each_contradiction(changes, text):
    assert text in told(replace(WORK, **changes), speed=SPEED)[0]


def test_the_worst_comes_first():
    found = told(replace(WORK, eval_interval=2000), needed=9e9, batch="impossible batch: ...")
    assert found[0] == "impossible batch: ..." and found[1].startswith("memory: 9.0 GB are needed")
    assert found[2].startswith("eval_interval")


def test_what_recipes_reach():
    """google_base_128 in an hour: 256 sequences of 96 tokens a step, 6 x 85 M x 96 and a head."""
    (line,) = (line for line in within(3600, Speed(1e15, ""), WORK) if "google_base_128" in line)
    steps = int(line.split(": ")[1].split(" of ")[0].replace(",", ""))
    a_sequence = 6 * (85e6 * 96 + 14 * (768**2 + 768 * 30_528)) + 12 * 12 * 768 * 96**2
    assert steps == pytest.approx(3600e15 / 256 / a_sequence, rel=0.01)


@pytest.mark.parametrize(
    "flags, dry_run, text",
    [
        ({"on": "H100", "probe_steps": 20}, True, "give one"),
        ({"mfu": 0.4}, True, "--on 8xH100"),
        ({"mfu": 1.4, "on": "H100"}, True, "at most 1"),
        ({"price_per_hour": -1.0}, True, "0 or more"),
        ({"probe_steps": 20}, False, "--probe_steps without --dry_run"),
        ({"overfit": 64}, True, "give one of them"),
    ],
)
def test_questions_that_contradict(flags, dry_run, text):
    with pytest.raises(ConfigurationError, match=text):
        Questions(**flags).check(dry_run)
