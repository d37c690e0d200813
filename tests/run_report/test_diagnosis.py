"""Each rule finds what it is for in a run made to have it, and nothing in a healthy one."""

import dataclasses
import math
import random

import pytest
from run_report_util import BASE, STEPS, changed, healthy_rows, phase, train_row, validation_row

from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.diagnosis import RULES, diagnose
from ds_bert.run_report.rules import data, learning, rate, stability
from ds_bert.run_report.rules.finding import Severity


def base(**other):
    return dataclasses.replace(BASE, **other)


def with_losses(change):
    """A run with other masked-LM losses: a function of step and progress."""

    def new(row):
        mlm = change(row["step"], row["step"] / STEPS)
        return {"mlm_loss": mlm, "loss": mlm + row["nsp_loss"]}

    rows = changed(healthy_rows(), new)
    return changed(rows, lambda row: {"mlm_loss": change(row["step"], 1)}, "validation")


def stuck_at(level, noise=0.02):
    numbers = random.Random(3)
    return with_losses(lambda step, progress: level + numbers.uniform(-noise, noise))


def straight(step, progress):
    """Falls with the sum of rates: quadratic in the warm-up, then along the decay."""
    way = 0.05 * (progress / 0.1) ** 2 if progress < 0.1 else 1 - ((1 - progress) / 0.9) ** 2 * 0.95
    return 8.3 - 0.8 * way


def high_after_warmup(step, progress):
    return 7.6 - 5 * progress if progress < 0.1 else 7.4


def spiked(row):
    return {"loss": row["loss"] + 1.5} if row["step"] in (600, 610) else {}


def overfitted():
    rows = changed(
        healthy_rows(),
        lambda row: {
            "mlm_loss": 5.0 + 1.5 * (row["step"] - 500) / 500
            if row["step"] > 500
            else row["mlm_loss"]
        },
        "validation",
    )
    return rows


CASES = {
    "unknown words": (data.wrong_vocabulary, phase(), base(unknown_share=0.2), 3),
    "some unknown words": (data.wrong_vocabulary, phase(), base(unknown_share=0.015), 2),
    "splinters": (data.wrong_vocabulary, phase(), base(pieces_per_word=3.5), 3),
    "copies": (data.repeated_corpus, phase(), base(near_duplicates=0.9), 3),
    "some repeats": (data.repeated_corpus, phase(), base(repeated_sentences=0.15), 2),
    "many epochs": (data.repeated_corpus, phase(), base(num_tokens=10_000), 2),
    "lengths": (data.pairs_given_away, phase(), base(pair_lengths=0.8), 2),
    "waiting": (
        data.starving,
        phase(changed(healthy_rows(), lambda row: {"data_wait_share": 0.6})),
        BASE,
        3,
    ),
    "not even frequencies": (learning.below_unigram, phase(stuck_at(6.6)), BASE, 3),
    "no context": (learning.below_unigram, phase(stuck_at(6.2)), BASE, 2),
    "pairs": (
        learning.pairs_at_chance,
        phase(
            [
                row | ({"nsp_loss": 0.69, "nsp_accuracy": 0.545} if "nsp_loss" in row else {})
                for row in healthy_rows()
            ]
        ),
        BASE,
        3,
    ),
    "by heart": (learning.overfitting, phase(overfitted()), BASE, 3),
    "too high, jumps": (rate.rate_too_high, phase(stuck_at(6.8, 0.6)), BASE, 3),
    "too high, was lower": (
        rate.rate_too_high,
        phase(with_losses(high_after_warmup)),
        BASE,
        3,
    ),
    "too high, gradients vanish": (
        rate.rate_too_high,
        phase(changed(stuck_at(6.8), lambda row: {"gradient_norm": 2 * 0.99 ** row["step"]})),
        BASE,
        3,
    ),
    "too high, certain and wrong": (
        rate.rate_too_high,
        phase(changed(stuck_at(6.8), lambda row: {"nsp_loss": 1.4 if row["step"] % 50 else 0.7})),
        BASE,
        3,
    ),
    "too low": (rate.rate_too_low, phase(with_losses(straight)), BASE, 3),
    "went up": (
        stability.diverged,
        phase(with_losses(lambda step, progress: 5.5 if progress < 0.6 else 7.5)),
        BASE,
        3,
    ),
    "ended itself": (
        stability.diverged,
        dataclasses.replace(phase(), diverged={"reason": "the loss is not a number"}),
        BASE,
        3,
    ),
    "spike": (stability.spike, phase(changed(healthy_rows(), spiked)), BASE, 2),
    "skips": (
        stability.skipped_steps,
        phase(changed(healthy_rows(), lambda row: {"skipped_steps": row["step"] // 5})),
        BASE,
        2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_finds_what_it_is_for(name):
    rule, run, numbers, severity = CASES[name]
    found = rule(run, numbers)
    assert found is not None and found.severity == severity
    assert all(found) and "None" not in " ".join(map(str, found))
    assert found in diagnose(run, numbers)


def test_every_rule_has_a_case():
    assert {rule for rule, *_ in CASES.values()} == set(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_healthy_run_keeps_a_rule_silent(rule):
    assert rule(phase(), BASE) is None


@pytest.mark.parametrize("steps", [0, 10, 50, 150, 300, 600])
def test_a_healthy_run_is_not_judged_too_early(steps):
    assert diagnose(phase(healthy_rows(steps)), BASE) == []


def test_nothing_is_needed():
    for rows in ([], [train_row(10)], [{"kind": "train", "step": 5}], [validation_row(10)]):
        assert isinstance(diagnose(phase(rows), Baselines()), list)
    rows = changed(
        healthy_rows(),
        lambda row: {name: None for name in row if name != "kind" and name != "step"},
    )
    assert diagnose(phase(rows), BASE) == []


@pytest.mark.parametrize(
    ("case", "title"),
    [
        ("too high, jumps", "The learning rate is too high"),
        ("too low", "The learning rate is too low"),
        ("unknown words", "The vocabulary does not fit the text"),
        ("pairs", "NSP is at chance (next sentence)"),
    ],
)
def test_the_cause_comes_first(case, title):
    _, run, numbers, _ = CASES[case]
    assert diagnose(run, numbers)[0].title == title


def test_the_worst_comes_first():
    rows = changed(healthy_rows(), spiked)
    rows = changed(rows, lambda row: {"data_wait_share": 0.6})
    found = [one.severity for one in diagnose(phase(rows), BASE)]
    assert found == [Severity.PROBLEM, Severity.WARNING]


def test_pairs_are_judged_beside_the_more_frequent_answer():
    """72 % is nothing where 72 % of the pairs are random."""
    rows = [
        row | ({"nsp_loss": 0.59, "nsp_accuracy": 0.72} if "nsp_loss" in row else {})
        for row in healthy_rows()
    ]
    entropy = -(0.72 * math.log(0.72) + 0.28 * math.log(0.28))
    numbers = base(pair_majority=0.72, pair_entropy=entropy)
    assert learning.pairs_at_chance(phase(rows), numbers) is not None
    assert learning.pairs_at_chance(phase(rows), BASE) is None


def test_another_share_of_masks_is_no_gap():
    rows = changed(overfitted(), lambda row: {"masked_share": 0.4})
    assert learning.overfitting(phase(rows), BASE) is None


@pytest.mark.parametrize(("num_sequences", "is_told"), [(16, False), (1600, True)])
def test_rows_of_few_sequences_may_jump(num_sequences, is_told):
    size = {"num_sequences": num_sequences, "num_masked_tokens": 76 * num_sequences}
    rows = changed(stuck_at(6.8, 0.25), lambda row: size)
    assert (rate.rate_too_high(phase(rows), BASE) is not None) is is_told
