"""The benchmarks of the GPU, as far as a CPU can run them."""

import json
import os
import subprocess
import sys
import weakref
from importlib.metadata import version
from subprocess import Popen
from xml.etree import ElementTree

import pytest
import torch
from conftest import ROOT
from script_loader import load_file
from warm import Warm

SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks/gpu").glob("*.py"))
SCRIPTS.remove("check")  # writes no rows


@pytest.fixture
def report(monkeypatch, tmp_path):
    """An empty report, to be written to `tmp_path`."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("OUT", str(tmp_path))
    from suite import Report

    bars = {"title": "Time", "value": "ms", "unit": "ms"}
    return Report("figures", bars, torch.device("cpu"), smoke=False)


def run_script(name, *arguments, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def popen(command, **more):
    """train.py forked, not started anew; a launcher as it is."""
    is_plain = command[1] == str(ROOT / "ds_bert/train.py")
    return Warm(command[2:], more["cwd"], more["env"]) if is_plain else Popen(command, **more)


@pytest.mark.parametrize("name", SCRIPTS)
def test_smoke(name, tmp_path, monkeypatch):
    """In this process; as a program: test_gpu_suite.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr("sys.argv", [name, "--smoke"])
    monkeypatch.setattr(torch, "compile", torch.compile)  # a script replaces it
    monkeypatch.setattr(subprocess, "Popen", popen)
    assert load_file(ROOT / f"benchmarks/gpu/{name}.py").main() == 0
    content = json.loads((tmp_path / f"gpu_{name}.json").read_text())
    assert content["machine"]["versions"]["torch"] == version("torch")
    verdicts = [row["passed"] for row in content["rows"] if "passed" in row]
    assert verdicts and all(verdicts)
    assert any(row.get("ms", 0) > 0 for row in content["rows"])
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    monkeypatch.setattr("sys.argv", ["plot", str(tmp_path)])
    assert not load_file(ROOT / "benchmarks/plot.py").main()
    assert ElementTree.parse(tmp_path / f"gpu_{name}.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("interpret", ["0", "1"])
def test_without_a_gpu_one_line_says_so(interpret):
    result = run_script("gpu/head", CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET=interpret)
    assert result.returncode == 2
    assert "without a CUDA device, expected one" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "holds", "code"),
    [(0.3, True, 0), (0.31, True, 1), (float("nan"), True, 1), (0.3, False, 1)],
)
def test_a_check_fails_the_run(report, error, holds, code):
    report.check("case", {"loss": error}, {"loss": 0.2}, tolerance=0.1001, same_bits=holds)
    assert report.finish() == code


def test_a_failure_does_not_end_the_run(report, tmp_path):
    def fail():
        raise RuntimeError("no kernel")

    assert report.time("case", "broken", fail) is None
    report.attempt("other case", fail)
    assert report.time("case", "ours", lambda: None) is not None
    assert report.finish() == 1
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row.get("error") for row in rows] == ["RuntimeError('no kernel')"] * 2 + [None]


def test_median_and_percentiles(report, monkeypatch):
    import timing

    monkeypatch.setattr(timing, "_cpu_times", lambda function, repeats: [5.0, 1.0, 2.0, 4.0, 3.0])
    found = timing.median_time(lambda: None, torch.device("cpu"))
    assert found == pytest.approx((3.0, 1.8, 4.2))


@pytest.mark.parametrize("lines", [False, True])
def test_names_in_a_chart_are_text(report, lines):
    import plot

    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    bad = "<script>alert('&')</script>"
    values = {"x": [1, 2], "ms": [1.0, 2.0]} if lines else {"ms": 1.0}
    bars = {**report.bars, "title": bad, "unit": bad} | ({"x": "x"} if lines else {})
    machine = {"processor": bad, "versions": {"torch": bad}, "commit": bad}
    rows = [{"case": bad, "impl": bad, **values}]
    picture = plot.plot({"machine": machine, "bars": bars, "rows": rows})
    assert "<script" not in picture
    root = ElementTree.fromstring(picture)
    assert any(bad in (text.text or "") for text in root.iter("{http://www.w3.org/2000/svg}text"))
    assert plot.plot({"machine": machine, "rows": rows}) is None


def test_bars_of_a_chart(report):
    import plot

    rows = [
        {"case": "one", "impl": "ours", "ms": 1.0, "ms_p20": 0.9, "ms_p80": 1.2},
        {"case": "two", "impl": "theirs", "ms": 4.0, "of_bound": 0.5},
    ]
    first, second = plot.panels(rows, report.bars)
    (ours,), (theirs,) = first.bars, second.bars
    assert (ours.value, ours.figure, ours.color, ours.ends) == (1.0, "1.00 ms", 1, (0.9, 1.2))
    assert (theirs.figure, theirs.color) == ("4.00 ms  (0.50 × bound)", 0)
    assert first.longest == second.longest == 4.0, "one scale for all cases"


def test_real_lengths_are_those_of_wikipedia(report):
    from synthetic_data import draw_lengths, lengths_of_batch

    lengths = draw_lengths("real", 512, 200_000)
    assert lengths.mean() == pytest.approx(254, abs=2)
    assert (lengths**2).mean() == pytest.approx(92_000, rel=0.01)
    assert (lengths.min(), lengths.max()) == (5, 512)
    assert 65_536 - 512 < sum(lengths_of_batch("real", 512, 65_536)) <= 65_536
    assert lengths_of_batch("full", 128, 65_536) == [128] * 512


def across_sequences(qkv, borders, longest, dropout):
    from ds_bert.model.attention import looped_attention

    return looped_attention(qkv, borders[[0, -1]], longest, dropout)


def drops_more(qkv, borders, longest, dropout):
    from ds_bert.model.attention import looped_attention

    return looped_attention(qkv, borders, longest, dropout * 1.05)


def test_checks_of_attention_notice_faults(report):
    gpu_attention = load_file(ROOT / "benchmarks/gpu/attention.py")

    for attention in (across_sequences, drops_more):
        gpu_attention.check(report, attention, torch.float32, 2, (1, 64, 77))
        gpu_attention.check_drop_rate(report, attention, torch.float32, 2, 32)
    # Across 32 sequences of 64 tokens, a weight is a 32nd of what it should be.
    assert [row["passed"] for row in report.rows] == [False, False, True, False]


def test_a_missing_package_is_one_line(report, capsys):
    from suite import require

    require("torch")
    with pytest.raises(SystemExit) as leaving:
        require("torch", "no_such_package")
    assert leaving.value.code == 2
    assert "no package no_such_package" in capsys.readouterr().err


def test_an_arm_that_is_replaced_is_freed(report, tmp_path, monkeypatch):
    """Two of BERT-large would not fit into 80 GB."""
    monkeypatch.setattr(report, "smoke", True)
    steps = load_file(ROOT / "benchmarks/gpu/steps.py")
    (tmp_path / "tiny.json").write_text(json.dumps(steps.TINY))
    stores = steps.write_stores(tmp_path, smoke=True)
    bench = steps.Bench(report, str(tmp_path / "tiny.json"), stores, tmp_path)
    for impl in (steps.OURS, steps.PLAIN, steps.EAGER):
        bench.measure("case", impl, "real", 32)
        tensors = [*bench.arm(impl).model.parameters()]
        tensors += [tensor.grad for tensor in tensors if tensor.grad is not None]
        optimizer = getattr(bench.arm(impl), "engine", bench.arm(impl)).optimizer
        for state in getattr(optimizer, "optimizer", optimizer).state.values():
            tensors += [value for value in state.values() if torch.is_tensor(value)]
        alive = [weakref.ref(tensor) for tensor in tensors]
        del tensors, optimizer, state
        bench.free()
        assert alive and not any(one() is not None for one in alive), impl


def test_what_there_is_no_time_for_is_skipped(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "smoke", True)
    monkeypatch.setenv("LIMIT_SECONDS", "20")
    steps = load_file(ROOT / "benchmarks/gpu/steps.py")
    stores = steps.write_stores(tmp_path, smoke=True)
    bench = steps.Bench(report, "bert-tiny", stores, tmp_path)
    steps.measure_cell(bench, steps.Cell("bert-tiny", 32, "real", None, steps.WHOLE))
    assert [row["skipped"] for row in report.rows] == ["no time is left"] * 4
    assert report.finish() == 0


def test_products_of_a_layer(report):
    """Twelve, with 3 x 2 x 12 H^2 T operations: four layers of 4 H^2 + 8 H^2 weights."""
    module = load_file(ROOT / "benchmarks/gpu/products.py")
    found = module.products(1024, 65_536)
    assert len(found) == 12
    assert sum(2 * one.m * one.n * one.k for one in found) == 72 * 1024**2 * 65_536


def test_a_wrong_product_fails_the_run(report, monkeypatch):
    module = load_file(ROOT / "benchmarks/gpu/products.py")
    product = module.Product("forward", 32, 32, 32, False)
    report.attempt("right", module.measure, report, "case", product, "bfloat16")
    monkeypatch.setitem(module.MAKERS, "bfloat16", lambda product, a, b: lambda: a @ a)
    report.attempt("wrong", module.measure, report, "case", product, "bfloat16")
    assert [row["passed"] for row in report.rows] == [True, False]
