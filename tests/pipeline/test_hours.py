"""Hours shared out: pure functions, checked against what a run of that length takes."""

import pytest

from ds_bert.costs.hours import Speed, Work, seconds
from ds_bert.pipeline import hours

WORK = Work(
    max_steps=1,
    warmup_steps=0,
    train_batch_size=32,
    flops=1e9,
    tokens=120.0,
    max_seq_length=128,
    num_rows=10_000,
    eval_sequences=300,
    eval_interval=0,
    save_interval=0,
    save_seconds=0.5,
)
SPEED = Speed(1e10, "of a test")  # 3.2 s a step, 10 s a validation


@pytest.mark.parametrize("intervals", [(None, None), (50, 20), (0, 0), (10**6, None)])
@pytest.mark.parametrize("limit", [120.0, 3600.0, 86_400.0])
def test_the_steps_fit_and_more_would_not(limit, intervals):
    steps = hours.steps_within(WORK, SPEED, limit, *intervals)
    took = [seconds(hours.work_at(WORK, n, *intervals), SPEED).total for n in (steps, steps + 1, 2)]
    assert took[0] <= limit
    assert took[1] > limit or steps < 2 * hours.INTERVALS, "near a change of the intervals"
    assert took[2] > 2 * 3.2, "validations count as well"
    assert took[0] > 0.9 * limit or limit < 1000


def test_steps_end_at_the_most_and_at_none():
    assert hours.steps_within(WORK, SPEED, 1e9, most=77) == 77
    assert hours.steps_within(WORK, SPEED, 3.0) == 0
    assert hours.steps_within(WORK, SPEED, -5.0) == 0


def test_phases_share_the_time_of_nine_sequences_and_one():
    found = hours.shares({"phase_1": 1.0, "phase_2": 4.5})
    assert found == pytest.approx({"phase_1": 9 / 13.5, "phase_2": 4.5 / 13.5})
    assert hours.shares({"phase_1": 7.0}) == {"phase_1": 1.0}


def test_all_parts_add_up_to_the_hours():
    total, used, tail = 3600.0, 200.0, 300.0
    first = hours.budget(total, used, tail, later=0.25)
    second = hours.budget(total, used + first, tail, later=0.0)
    assert used + first + second + tail == pytest.approx(total)
    assert first == pytest.approx(0.75 * 3100)
    assert hours.budget(total, used, 1e6, 0.0) == 3600 - 200 - 900, "a tail is a guess"
    assert hours.budget(total, 4000.0, tail, 0.0) < 0


def test_the_tail_counts_what_is_asked_for():
    judged = hours.Judged(sequences=100, sentences=0, scored=0.0)
    alone = hours.tail_seconds(judged, 1e6, 1e9, num_stages=2)
    assert alone == pytest.approx(2 * 30 + 100 * 512 / 3 * 1e-3)
    assert hours.tail_seconds(judged._replace(sentences=50), 1e6, 1e9, 2) > alone
    scored = hours.tail_seconds(judged._replace(scored=9000.0), 1e6, 1e9, 2)
    assert scored - alone == pytest.approx(9000 * 1e-3)


@pytest.mark.parametrize(
    ("pace", "left", "expected"),
    [
        (1.0, 800.0, 1000),  # as it was timed
        (1.1, 800.0, 1000),  # about
        (2.0, 800.0, 200 + int((0.93 * 800 - 20) / 2)),  # half as fast
        (0.5, 800.0, 200 + int((0.93 * 800 - 20) / 0.5)),  # twice as fast
        (2.0, 700.0, 200 + int((0.93 * 700 - 20) / 2)),
        (1.3, 100.0, 200 + int((0.93 * 100 - 20) / 1.3)),  # no time for all
        (0.1, 100.0, 1000),  # 20 s more: not worth a restart
    ],
)
def test_steps_change_with_the_pace(pace, left, expected):
    assert hours.steps_by_pace(200, 1000, pace, left, restart=20.0) == expected


def test_a_run_out_of_time_decays_in_a_few_steps():
    assert hours.steps_to_end(400, 1000) == 420
    assert hours.steps_to_end(3, 1000) == 4
    assert hours.steps_to_end(990, 1000) == 1000
