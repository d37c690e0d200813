"""What a road will take, before anything is done: stages, their state, hours."""

import math
from collections.abc import Iterator

from transformers import BertConfig

from ds_bert import recipes
from ds_bert.advice.hardware import speed_of
from ds_bert.costs.hours import Speed
from ds_bert.model.flops import training_flops
from ds_bert.model.pretrained import PRESETS, read_config_file
from ds_bert.pipeline import hours
from ds_bert.pipeline import verdict as verdicts
from ds_bert.pipeline.options import DATA, EVALUATION, PHASES, SCORE, VOCABULARY
from ds_bert.pipeline.phase import in_bf16, score_tokens
from ds_bert.pipeline.plan import Plan
from ds_bert.pipeline.stages import command, text_of
from ds_bert.pipeline.state import State
from ds_bert.training.log import duration

_VOCAB_SIZE = 30_522  # where a preset is to take it from a vocabulary that is not there yet
_MASKED = 0.15
_START = 10.0  # seconds of a command
# Seconds of a byte of text; about what 74 MB take on one core of an AMD EPYC.
_OF_BYTE = {VOCABULARY: 1 / 8e6, DATA: 1 / 2e7}
_HELD_OUT_BYTES = 4.5 * 512  # of text in a sequence of 512 tokens


def dry_run(plan: Plan) -> int:
    """Print the stages, what is done of them, and about how long the others take; returns 0.

    Raises:
        ConfigurationError: training would be lost.
        DataError: the text cannot be read.
    """
    verdicts.require_task(plan)
    state = State.read(plan.output_dir)
    found = verdicts.judge(plan, state)
    took = stage_seconds(plan, speed_of(None, bf16=in_bf16(plan))[0])
    left = 0.0
    for stage in plan.stages:
        verdict = found[stage]
        is_done = verdict.kind == verdicts.DONE
        left += 0.0 if is_done else took[stage]
        time = "nothing to do" if is_done else f"about {duration(took[stage])}"
        changes = f": {'; '.join(verdict.changes)}" if verdict.changes else ""
        print(f"{stage:>12}: {verdict.kind}{changes}, {time}")
        for line in _told(plan, stage):
            print(f"{'':>12}  {line}")
    asked = f" of {plan.hours:g} asked for" if plan.hours else ""
    print(f"{'hours':>12}: about {left / 3600:.2g}{asked}")
    verdicts.require_nothing_lost(plan, found)
    print("dry run: nothing was made")
    return 0


def _told(plan: Plan, stage: str) -> Iterator[str]:
    if stage not in PHASES:
        yield f"ds-bert {' '.join(command(plan, stage))}"
        return
    engine, section = plan.recipe(stage)
    steps = section.get("max_steps")
    told = f"{steps:,} steps" if steps else "as many steps as fit"
    told = f"{told} at most" if steps and plan.hours else told
    batch = engine.get("train_batch_size", "auto")
    yield f"{section['model']}, {section['max_seq_length']} tokens, {batch} sequences, {told}"


def stage_seconds(plan: Plan, speed: Speed) -> dict[str, float]:
    """About what each stage takes on this machine; assumed, not measured."""
    num_bytes = sum(source.num_bytes for source in text_of(plan))
    rate = speed.flops_per_second
    took = {name: _START + num_bytes * each for name, each in _OF_BYTE.items()}
    flops = {phase: _flops(plan, plan.length(phase)) for phase in plan.phases}
    longest = plan.length(plan.phases[-1])
    asked = plan.options(EVALUATION)
    held_out = num_bytes * plan.validation_fraction / _HELD_OUT_BYTES
    parts = {
        EVALUATION: hours.Judged(round(held_out), asked.get("pseudo_perplexity", 0)),
        SCORE: hours.Judged(0, 0, score_tokens(plan)),
    }
    of_token = flops[plan.phases[-1]] / longest
    for stage in plan.stages[2 + len(plan.phases) :]:
        judged = parts.get(stage, hours.Judged(0))
        took[stage] = hours.tail_seconds(judged, of_token, rate, 1)
    most = {phase: _seconds_of_steps(plan, phase, flops[phase] / rate) for phase in plan.phases}
    if not plan.hours:
        return took | most
    before = took[VOCABULARY] + took[DATA]
    rest = hours.budget(3600 * plan.hours, before, sum(took.values()) - before, later=0.0)
    for phase, share in hours.shares(flops).items():
        took[phase] = min(most[phase], max(0.0, rest) * share)
    return took


def _seconds_of_steps(plan: Plan, phase: str, of_sequence: float) -> float:
    """Of all steps that a phase may have; as many as one likes without `max_steps`."""
    engine, section = plan.recipe(phase)
    sequences = section.get("max_steps", math.inf) * engine.get("train_batch_size", 1)
    return _START + sequences * of_sequence


def _flops(plan: Plan, length: int) -> float:
    """Of training on a sequence."""
    name = plan.recipe(PHASES[0])[1]["model"]
    if name.endswith(".json"):
        config = read_config_file(recipes.find_file(name))
    else:
        size = plan.options(VOCABULARY).get("vocab_size", _VOCAB_SIZE)
        config = BertConfig(**PRESETS.get(name, PRESETS["bert-base"]), vocab_size=size)
    return training_flops(config, [length], round(_MASKED * length))
