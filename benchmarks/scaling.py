"""From one host to 64: the time of a step by a model, who waits for whom, and how often to save.

    python benchmarks/scaling.py [--gpu H200] [--save SECONDS] [--restart SECONDS]

A model, not a measurement: a GPU's part is that of roofline.py (time_model/step.py), bytes are
those that tests/training/test_wire.py counts, links are data sheets at 90 %. Beside it stand the
figures that NVIDIA has published. Chance is simulated, with a seed. The tables are Markdown.
"""

import argparse

from machine import ROOT
from roofline import amount, tell
from synthetic_data import VOCAB_SIZE
from time_model.chance import jitter_of_lengths, simulate_failures, simulate_steps, slowest
from time_model.engine import ENGINES, parameter_count
from time_model.gpus import GPUS, Ceilings, assumed
from time_model.measured import with_measurements
from time_model.published import A100, NETWORK, efficiency, modelled
from time_model.recipes import LENGTHS, cell_of
from time_model.step import NODE, Cell, predict

from ds_bert import recipes
from ds_bert.costs.interval import DAY, best_interval, goodput, save_seconds
from ds_bert.errors import exit_with

HOSTS = (1, 2, 4, 8, 16, 32, 64)
RECIPES = ("seq128", "seq512")
TOKENS = 1 << 16  # of a micro-batch, at most
SHARE = 0.9  # of a link's data sheet that arrives. Assumed
LINKS = {  # of a host to the others, bytes/s
    name: SHARE * gigabits * 1e9 / 8
    for name, gigabits in {
        "25 Gbit/s": 25, "100": 100, "200": 200, "400": 400, "8 x 200": 1600, "8 x 400": 3200,
    }.items()
}  # fmt: skip
FASTEST = "8 x 400"
BACKWARD = 2 / 3  # of a micro-batch
SAVE = round(save_seconds(18 * parameter_count(24, 1024, VOCAB_SIZE)), 1)  # bf16, LAMB
DAYS = (1, 30, 365)  # between two failures of one host


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--gpu", choices=GPUS, default="H200")
    add("--save", type=amount, default=SAVE, help="seconds that a save keeps training waiting; "
        f"default {SAVE}, what the plan of a run takes for BERT-large")  # fmt: skip
    add("--restart", type=amount, default=120, help="seconds from a failure to training; "
        "default 120, an assumption")  # fmt: skip
    arguments = parser.parse_args()
    ceilings = with_measurements(
        assumed(arguments.gpu, "expected"), ROOT / "benchmarks/results", arguments.gpu
    )
    print(f"Model, not measured: {arguments.gpu}, {NODE} in a host, lengths {LENGTHS}\n")
    for name in RECIPES:
        tell_links(name, ceilings)
    tell_published()
    tell_slowest()
    tell_failures(arguments.save, arguments.restart)


def cell(name: str, hosts: int) -> Cell:
    """What a recipe trains on so many hosts."""
    found = cell_of(recipes.find(name), NODE * hosts, TOKENS)
    assert not isinstance(found, str), found
    return found[0]


def speed(one: Cell, ceilings: Ceilings, network: float, is_hidden: bool = False) -> float:
    """Sequences per second of a cell.

    Args:
        one: what is trained.
        ceilings: the speeds of the GPU.
        network: bytes/s of a host to the others.
        is_hidden: if the last backward pass of a step hid the sums of gradients, as far as it can.
    """
    found = predict(one, ceilings, ENGINES["after"], network)
    step = found.micro_batch * one.accumulation
    if is_hidden:
        communication = found.terms["communication"] * one.accumulation
        weights = communication / 3  # 2 bytes of 6
        behind = BACKWARD * (found.micro_batch - found.terms["communication"])
        step -= min(communication - weights, behind)
    return one.sequences * one.accumulation * one.gpus / step


def tell_links(name: str, ceilings: Ceilings) -> None:
    """Throughput by that of as many single hosts, by link."""
    alone = speed(cell(name, 1), ceilings, LINKS[FASTEST])
    lines = []
    for hosts in HOSTS:
        one = cell(name, hosts)
        for is_hidden in (False, True)[: 1 + (hosts == HOSTS[-1])]:
            speeds = [speed(one, ceilings, network, is_hidden) for network in LINKS.values()]
            lines.append(
                [
                    f"{hosts}{', hidden' * is_hidden}",
                    f"{one.sequences} x {one.accumulation}",
                    *(f"{found / alone / hosts:.0%}" for found in speeds),
                    f"{speeds[-1]:,.0f}",
                ]
            )
    heads = ["micro-batch x accumulation", *LINKS, f"sequences/s at {FASTEST}"]
    tell([f"hosts, {name}", *heads], lines)


def tell_published() -> None:
    """NVIDIA's figures, the model of the same, and ds_bert's step by the model."""
    ceilings = assumed("A100-80", "expected")
    lines = []
    for nodes in A100[128]:
        line = [f"{nodes}"]
        for length, name in zip(A100, RECIPES, strict=True):
            ours = speed(cell(name, nodes), ceilings, SHARE * NETWORK)
            line += [
                f"{A100[length][nodes]:,}",
                f"{efficiency(length, nodes):.1%}",
                f"{modelled(length, nodes, ceilings, SHARE * NETWORK):.1%}",
                f"{ours:,.0f}",
            ]
        lines.append(line)
    heads = ["published", "efficiency", "model", "ds_bert by the model"]
    tell(["nodes", *(f"{length}: {head}" for length in A100 for head in heads)], lines)


def tell_slowest() -> None:
    """How much longer a step takes for the rank that has most tokens, if not packed."""
    lines = []
    for name in RECIPES:
        for hosts in (1, 8, 64):
            one = cell(name, hosts)
            length, sequences = one.length, one.sequences * one.accumulation
            jitter = jitter_of_lengths(LENGTHS, length, sequences)
            lines.append(
                [
                    f"{name}, {one.gpus} GPUs",
                    f"{sequences:,}",
                    f"{jitter:.1%}",
                    f"{slowest(one.gpus, jitter) - 1:+.1%}",
                    f"{simulate_steps(one.gpus, LENGTHS, length, sequences, steps=20) - 1:+.1%}",
                ]
            )
    tell(["", "sequences of a GPU", "deviation", "slowest by formula", "simulated"], lines)


def tell_failures(save: float, restart: float) -> None:
    """The best interval, and how much of the time is of use."""
    lines = []
    for days in DAYS:
        for hosts in (1, 8, 64):
            between = days * DAY / hosts
            best = best_interval(save, between)
            costs = (save, between, restart)
            lines.append(
                [
                    f"{days:,} days; {hosts} hosts",
                    f"{between / 3600:,.1f}",
                    f"{best / 60:,.0f}",
                    f"{goodput(best, *costs):.2%}",
                    f"{simulate_failures(best, *costs):.2%}",
                    f"{goodput(3600, *costs):.2%}",
                ]
            )
    print(f"Assumed: {save:g} s a save, {restart:g} s from a failure to training.\n")
    heads = ["hours between failures", "best interval, minutes", "of use", "simulated"]
    tell(["a host fails once in", *heads, "saved once an hour"], lines)


if __name__ == "__main__":
    exit_with(main)
