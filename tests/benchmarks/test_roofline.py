"""roofline.py: measured rows beside the model, recipes, and what is said about mistakes."""

import json

import pytest
from conftest import ROOT
from data_util import exit_code
from roofline_cells import NETWORK, make_cell, predict
from script_loader import load_file

H200 = "NVIDIA H200"


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls roofline.py; returns its exit code and what it printed to each stream."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["roofline.py", *map(str, arguments)])
        main = load_file(ROOT / "benchmarks/roofline.py").main
        return exit_code(lambda _: main()), *capsys.readouterr()

    return call


def write_rows(folder, name, *rows, gpu=H200):
    content = {"machine": {"gpu": gpu}, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_measured_rows_override_assumptions(tmp_path):
    from time_model.gpus import assumed
    from time_model.measured import with_measurements

    plain = assumed("H200", "expected")
    product = {"m": 65_536, "n": 3072, "k": 768, "dtype": "bfloat16", "tflops_per_second": 500}
    attention = {"case": "BERT-base 512 full lengths", "impl": "flash, dropout 0.1"}
    faster = attention | {"impl": "triton, dropout 0.1", "tflops_per_second": 100}
    square = dict.fromkeys("mnk", 8192) | {"dtype": "bfloat16", "tflops_per_second": 700}
    write_rows(tmp_path, "gpu_products", product, square)
    write_rows(tmp_path, "gpu_attention", faster, attention | {"tflops_per_second": 80})
    write_rows(tmp_path, "gpu_lamb", {"case": "copy of 8 bytes", "bytes_per_second": 2.15e12})
    found = with_measurements(plain, tmp_path, "H200")
    assert len(found.notes) == len(plain.notes) + 4
    cell = make_cell("bert-base", 512, "full")
    before, after = predict(cell).terms, predict(cell, ceilings=found).terms
    operations = 12 * 3.5 * 4 * cell.sequences * 512**2 * 768
    assert after["attention"] == pytest.approx(operations / 100e12)
    assert after["engine"] == pytest.approx(2 * before["engine"])
    # Two of a layer's products have that shape; the others follow the slower square.
    slower = 12 * 2 * (2 * 65_536 * 3072 * 768) / 500e12
    assert after["products"] > max(before["products"], slower)
    from time_model import products

    one = (cell.tokens, 3072, 768)
    assert products.seconds([one], found) == 2 * one[0] * one[1] * one[2] / 500e12
    half = (cell.tokens // 2, 3072, 768)
    assert products.seconds([half], found) == pytest.approx(products.seconds([one], found) / 2)
    assert found.product == 700e12
    assert found.measured_product((cell.tokens, 768, 768), "bf16") is None
    assert found.measured_product(one, "fp8") is None


def test_rows_of_another_gpu_say_nothing(tmp_path):
    from time_model.gpus import assumed
    from time_model.measured import with_measurements

    plain = assumed("H100", "expected")
    write_rows(tmp_path, "gpu_lamb", {"case": "copy", "bytes_per_second": 1.0})
    assert with_measurements(plain, tmp_path, "H100") == plain


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("nvjet_tst_256x128_64x4_2x1_v_bz_TNT", "products and head"),
        ("_rows_backward", "products and head"),
        ("_norm_backward", "element-wise"),
        ("triton_red_fused__flash_attention_backward_native_layer_norm_4", "element-wise"),
        ("void at::native::vectorized_elementwise_kernel<4, FillFunctor>", "engine and optimizer"),
    ],
)
def test_the_gap_has_a_name(tmp_path, kernel, group):
    from time_model.measured import GROUPS, compare, measured_cells, profile_of, read

    cell = make_cell("bert-large", 512, "real")
    model = predict(cell)
    shown = {"flash": "attention", "gemm": "products and head", "triton_": "element-wise"}
    shown |= {"copy": "engine and optimizer"}
    kernels = [
        {"kernel": name, "ms": 4e3 * sum(model.terms[term] for term in GROUPS[words][1])}
        for name, words in shown.items()
    ]
    kernels.append({"kernel": kernel, "ms": 4 * 50.0})
    total = sum(row["ms"] for row in kernels)
    step = {"case": cell.name, "impl": "ours, bf16", "ms": total + 4e3 * model.terms["waits"]}
    step |= {"sequences_per_second": 700.0, "micro_batch_size": cell.sequences}
    profile = {"case": cell.name, "profiled": "ours, bf16", "kernel_ms": total, "profile": kernels}
    write_rows(tmp_path, "gpu_steps", step, profile)
    [(found, row)] = measured_cells(tmp_path, "H200")
    rows = read(tmp_path, "gpu_steps", "H200")
    assert compare(found, row, model, profile_of(found, row, rows)).gap == f"{group} +50.0 ms"
    assert compare(found, row, model, None).gap == "not profiled"
    idle = row | {"ms": row["ms"] + 4 * 90}
    assert compare(found, idle, model, profile).gap == "idle +90.0 ms"


def test_without_measurements_it_says_so(run, tmp_path):
    code, out, err = run("--results", tmp_path)
    assert code == 0, err
    assert "Steps on an H200: not measured" in out
    assert out.count("lengths |") == 8


@pytest.mark.parametrize("arguments", [(), ("--recipes",)])
def test_the_documentation_shows_what_it_prints(run, tmp_path, arguments):
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    printed = run(*arguments, "--results", tmp_path)[1].splitlines()
    rows = [line for line in printed if line.startswith("| ")]
    assert len(rows) > 8 and [row for row in rows if row not in page] == []


def test_measured_cells_stand_beside_the_model(run, tmp_path):
    step = {"case": "bert-large 512 real lengths", "impl": "ours, bf16", "ms": 1600.0}
    write_rows(
        tmp_path, "gpu_steps", step | {"sequences_per_second": 640.0, "micro_batch_size": 256}
    )
    last = run("--results", tmp_path)[1].splitlines()[-2]
    assert last.startswith("| bert-large 512 real lengths: ours, bf16 | 400.0 |")
    assert last.endswith("| 640 | not profiled |")


def test_recipes_take_as_long_as_their_sequences():
    from time_model.engine import ENGINES
    from time_model.gpus import assumed
    from time_model.recipes import estimates

    from ds_bert import recipes

    ceilings = assumed("H200", "expected")
    found, left_out = estimates((1, 64), 65_536, ceilings, ENGINES["after"], NETWORK)
    assert {estimate.recipe for estimate in found} | set(left_out) == set(recipes.names())
    assert set(left_out) == {name for name in recipes.names() if name.startswith("demo/")}
    for estimate in found:
        recipe = json.loads(recipes.find(estimate.recipe).read_text())
        cell, run = estimate.cell, recipe["ds_bert"]
        batch = cell.sequences * cell.accumulation * cell.gpus
        assert batch == recipe["train_batch_size"] and cell.tokens <= 65_536
        sequences = batch * run["max_steps"]
        seconds = sequences / estimate.prediction.sequences_per_second
        assert estimate.hours == pytest.approx(seconds / 3600)
    assert {e.cell.model for e in found if e.recipe.startswith("seq")} == {"bert-large"}


def test_the_page_of_recipes_shows_the_hours():
    from time_model.engine import ENGINES
    from time_model.gpus import assumed
    from time_model.recipes import estimates

    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    shown = {row[1].strip("`"): row[4:6] for row in rows if len(row) == 9}
    found, _ = estimates((1, 8), 65_536, assumed("H200", "expected"), ENGINES["after"], NETWORK)
    hours = {}
    for estimate in found:
        hours.setdefault(estimate.recipe, []).append(f"{estimate.hours:,.1f}")
    assert {name: shown.get(name) for name in hours} == hours


def test_the_page_of_recipes_shows_the_losses():
    from ds_bert import recipes

    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "benchmarks/results/recipes.json").read_text())["rows"]
    names = {name for name in recipes.names() if not name.startswith("demo/")}
    assert {row["case"] for row in rows} == names
    assert all(row["last_loss"] < row["first_loss"] for row in rows)
    for row in rows:
        shown = f"{row['first_loss']:.2f} | {row['last_loss']:.2f} |"
        assert f"| {row['case']} | {row['impl']} | {row['schedule']} | " in page
        assert shown in page


def test_cost_follows_the_price(run):
    rows = [
        [field.strip() for field in line.split("|")[1:-1]]
        for line in run("--recipes", "--price", 1000)[1].splitlines()
        if line.startswith("| seq128 ")
    ]
    assert [row[1] for row in rows] == ["1", "8", "64"]
    for _, gpus, _, _, hours, cost, _ in rows:
        expected = float(hours.replace(",", "")) * int(gpus) * 1000
        dollars = float(cost.strip("$").replace(",", ""))
        assert dollars == pytest.approx(expected, abs=0.05 * int(gpus) * 1000 + 1)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--tokens", "0"), "found 0, expected a whole number"),
        (("--price", "nan"), "found nan, expected a number above 0"),
        (("--results", "nowhere"), "found no folder nowhere"),
        (("--fp8", "--gpu", "A100-80"), "found A100-80, expected a GPU that has it"),
    ],
)
def test_bad_arguments(run, arguments, problem):
    code, _, err = run(*arguments)
    assert code == 2
    assert problem in err.splitlines()[-1]


def test_a_damaged_file_is_named(run, tmp_path):
    (tmp_path / "gpu_steps.json").write_text("[]")
    code, _, err = run("--results", tmp_path)
    assert code == 3
    assert "gpu_steps.json: found" in err and "Traceback" not in err


def test_what_does_not_fit_is_marked(run, tmp_path):
    printed = run("--gpu", "A100-40", "--results", tmp_path)[1].splitlines()
    large, base = (
        [line for line in printed if line.startswith(f"| bert-{size}")]
        for size in ("large", "base")
    )
    assert all("does not fit" in line for line in large)
    assert not any("does not fit" in line for line in base)
