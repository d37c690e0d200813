"""The attention kernels compile for Ampere and Hopper with the tiles that they are launched with.

As a script it prints the table of docs/performance.md. Like test_compiled_kernels.py, whose helpers
it shares, it works in a process of its own.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from test_compiled_kernels import assemble, rows_of

TYPES = dict.fromkeys(("qkv", "qkv_grad", "output", "grad"), "*bf16")
TYPES |= dict.fromkeys(("log_sums", "row_sums"), "*fp32") | {"inverse_kept": "fp32"}
TYPES |= dict.fromkeys(("cu_seqlens", "work"), "*i32") | {"seed": "*i64"}
TYPES |= dict.fromkeys(("num_heads", "num_tokens", "threshold"), "i32")
SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}  # bytes of a multiprocessor that a program may have
REGISTERS = 1 << 16  # of a multiprocessor
COLUMNS = ("registers", "spilled_bytes", "shared_bytes", "programs", "vector_loads", "cp_async")
COLUMNS += ("vector_stores", "products", "per_score")


def cases():
    """Name, kernel, capability and options with constants in capitals, as `attention` has them."""
    from ds_bert_kernels import attention
    from ds_bert_kernels.tiles import long, short

    for capability, tiling in ((80, attention.AMPERE), (90, attention.HOPPER)):
        yield "short forward", short.attention_forward, capability, attention.SHORT
        if tiling.short:
            yield "short backward", short.attention_backward, capability, attention.SHORT
        yield "forward", long.attention_forward, capability, tiling.forward
        yield "backward, queries", long.attention_backward_queries, capability, tiling.queries
        yield "backward, keys", long.attention_backward_keys, capability, tiling.keys


def compile_kernel(kernel, capability, options, drops):
    import triton
    from ds_bert_kernels.attention import SCALES
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {name: value for name, value in options.items() if name.isupper()}
    constants |= {"SCALE": SCALES[64], "SIZE": 64, "DROPS": drops}
    signature = {name: TYPES.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [(p,) for p, kind in enumerate(signature.values()) if kind.startswith("*")]
    attrs = {place: [["tt.divisibility", 16]] for place in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attrs)
    launch = {name: value for name, value in options.items() if name.islower()}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch)
    ptx, threads = compiled.asm["ptx"], 32 * options["num_warps"]
    found = assemble(ptx)
    shared = compiled.metadata.shared
    by_registers = REGISTERS // (threads * -(-found["registers"] // 8) * 8)
    scores = options.get("TOKENS", 0) ** 2 or options["QUERIES"] * options["KEYS"]
    return found | {
        "shared_bytes": shared,
        "programs": min(by_registers, SHARED_MEMORY[capability] // shared),
        "vector_loads": len(re.findall(r"ld\.global\S*\.v[24]", ptx)),
        "cp_async": ptx.count("cp.async.cg"),
        "vector_stores": len(re.findall(r"st\.global\S*\.v[24]", ptx)),
        "products": ptx.count("mma.sync" if capability < 90 else "wgmma.mma_async"),
        "per_score": round(instructions(compiled.asm["cubin"]) * threads / scores, 1),
    }


def instructions(cubin):
    """Of the largest loop of the machine code, or of all where there is none; without padding."""
    import triton

    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([program, "-sass", file.name], capture_output=True, text=True).stdout
    pattern = r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?!NOP)([A-Z]\w*)(.*?);"
    code = [(int(place, 16), name, rest) for place, name, rest in re.findall(pattern, said)]
    end = max(place for place, name, _ in code if name == "EXIT")
    loops = [
        (int(target.group(1), 16), place)
        for place, name, rest in code
        if name == "BRA" and (target := re.search(r"0x([0-9a-f]+)", rest))
        if int(target.group(1), 16) < place < end
    ]
    first, last = max(loops, key=lambda loop: loop[1] - loop[0], default=(0, end))
    return sum(first <= place <= last for place, *_ in code)


def main():
    rows = [
        {"kernel": name + ", dropout" * drops, "capability": capability}
        | compile_kernel(kernel, capability, options, drops)
        for name, kernel, capability, options in cases()
        for drops in (True, False)
    ]
    print(json.dumps(rows) if "--json" in sys.argv else table(rows))


def table(rows):
    names = ("kernel", "capability", *COLUMNS)
    lines = [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(r[n]) for n in names)} |" for r in rows)])


@pytest.fixture(scope="module")
def rows():
    return rows_of(__file__)


def test_nothing_is_spilled_and_shared_memory_suffices(rows):
    assert len(rows) == 18
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["shared_bytes"] <= SHARED_MEMORY[row["capability"]], row


def test_tensor_cores_and_vectors_are_used(rows):
    for row in rows:
        assert row["products"] > 0, row
        assert row["vector_loads"] + row["cp_async"] > 0, row
        assert row["vector_stores"] > 0, row


def test_dropout_costs_few_instructions(rows):
    """8 weights share a call of the random numbers; one call for each takes some 70 more."""
    found = {(row["kernel"], row["capability"]): row["per_score"] for row in rows}
    for (name, capability), count in found.items():
        if name.endswith(", dropout"):
            plain = found[name.removesuffix(", dropout"), capability]
            assert plain < count < plain + 24, (name, capability, plain, count)


if __name__ == "__main__":
    main()
