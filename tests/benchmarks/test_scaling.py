"""scaling.py: chance against its formulas, published figures beside the model, the tables."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT

from ds_bert.costs.interval import best_interval, goodput


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.parametrize(
    "save, between_failures, restart",
    [(5.0, 3600.0, 120.0), (60.0, 1200.0, 300.0), (30.0, 200.0, 400.0)],
)
def test_simulated_failures_cost_what_the_formula_says(save, between_failures, restart):
    from time_model.chance import simulate_failures

    best = best_interval(save, between_failures)
    for interval in (best / 3, best, 3 * best):
        costs = (interval, save, between_failures, restart)
        found = simulate_failures(*costs, saves=10_000)
        assert found == pytest.approx(goodput(*costs), rel=0.03)


def test_the_best_interval_is_best_in_the_simulation():
    from time_model.chance import simulate_failures

    costs = (60.0, 1200.0, 300.0)
    best = best_interval(*costs[:2])
    shares = {share: simulate_failures(share * best, *costs) for share in (0.3, 1.0, 3.0)}
    assert max(shares, key=shares.__getitem__) == 1.0


@pytest.mark.parametrize("ranks", [2, 8, 64, 512])
def test_the_slowest_of_normal_times(ranks):
    from time_model.chance import slowest

    times = np.random.default_rng(0).normal(1.0, 0.05, (4000, ranks))
    found = times.max(axis=1).mean()
    assert slowest(ranks, 0.05) == pytest.approx(found, abs=0.002)
    assert slowest(1, 0.05) == 1.0


@pytest.mark.parametrize("ranks", [8, 64])
def test_the_rank_with_most_tokens(ranks):
    from time_model.chance import jitter_of_lengths, simulate_steps, slowest

    found = simulate_steps(ranks, "real", 512, sequences=64)
    assert found == pytest.approx(slowest(ranks, jitter_of_lengths("real", 512, 64)), abs=0.01)
    assert simulate_steps(ranks, "full", 512, sequences=64) == 1.0


@pytest.mark.parametrize("length", [128, 512])
def test_beside_published_figures(length):
    from time_model.gpus import assumed
    from time_model.published import A100, efficiency, modelled

    ceilings = assumed("A100-80", "expected")
    assert efficiency(length, 1) == modelled(length, 1, ceilings) == 1
    for nodes in A100[length]:
        assert modelled(length, nodes, ceilings) == pytest.approx(
            efficiency(length, nodes), abs=0.03
        )
    assert efficiency(128, 32) == pytest.approx(30.37 / 32, abs=1e-3)  # the page's own column
    slow = [modelled(length, 32, ceilings, network) for network in (1e9, 1e10, 1e11)]
    assert slow == sorted(slow) and slow[0] < 0.5


def test_speed_of_a_recipe():
    import scaling
    from time_model.gpus import assumed

    ceilings = assumed("H200", "expected")
    cells = {hosts: scaling.cell("seq128", hosts) for hosts in (1, 64)}
    assert {c.sequences * c.accumulation * c.gpus for c in cells.values()} == {65_536}
    for network in scaling.LINKS.values():
        one, many = (scaling.speed(c, ceilings, network) for c in cells.values())
        hidden = scaling.speed(cells[64], ceilings, network, is_hidden=True)
        assert one < many < hidden < 64 * one


def test_the_tables(monkeypatch, capsys):
    import scaling

    monkeypatch.setattr(scaling, "simulate_failures", goodput)  # slow, and tested above
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--gpu", "A100-80"])
    scaling.main()
    out = capsys.readouterr().out
    assert out.startswith("Model, not measured: A100-80")
    assert "| 32 | 138,294 | 94.9% |" in out
    assert "| 64, hidden |" in out


def test_the_page_shows_what_was_counted():
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "benchmarks/results/wire.json").read_text())["rows"]
    sent = {(row["case"], row["way"], row["ranks"]): row["bytes"] for row in rows}
    for case in {row["case"] for row in rows}:
        cells = [sent[case, way, ranks] for way in ("DeepSpeed", "ds_bert") for ranks in (2, 4)]
        assert f"| {case} | {' | '.join(f'{cell:,}' for cell in cells)} | " in page
    assert all(num_bytes == 0 for (_, _, ranks), num_bytes in sent.items() if ranks == 1)


def test_the_page_shows_the_model(monkeypatch, capsys):
    import scaling

    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    for name in scaling.RECIPES:
        scaling.tell_links(name, scaling.assumed("H200", "expected"))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) > 2 * len(scaling.HOSTS)
    assert not [line for line in shown if line not in page.splitlines()]
