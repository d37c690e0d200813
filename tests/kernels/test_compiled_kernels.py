"""Every kernel compiles for Ampere and Hopper: nothing spilled, vectors where they must be.

ptxas comes with triton, so this needs no GPU. It runs in a process of its own, since kernels that
the interpreter has taken cannot be compiled. As a script it prints the table.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import compiled_elementwise
import compiled_fp8_cast
import compiled_head
import pytest

PARTITION = {name: "*fp32" for name in ("parameter", "exp_avg", "exp_avg_sq")}
PIECES = {name: "*i32" for name in ("blocks", "firsts", "lasts", "tensors")}
PIECES["weight_decays"] = "*fp32"
SCALARS = ("beta1", "beta2", "rest1", "rest2", "eps", "scale1", "scale2", "lr", "lowest", "highest")


def cases():
    """Name, kernel, argument types, constants and whether it reads and writes vectors."""
    from ds_bert_kernels import lamb

    yield from compiled_head.cases()
    for dtype in ("bf16", "fp32"):
        types = PARTITION | PIECES | dict.fromkeys(SCALARS, "fp32")
        types |= {"gradient": f"*{dtype}", "adaptives": "*i32"}
        for name in (
            "gradient_scale",
            "found_inf",
            "parameter_sums",
            "update_sums",
            "parameter_norms",
            "update_norms",
        ):
            types[name] = "*fp32"
        for is_cut in (False, True):
            constants = {"BLOCK": lamb.BLOCK, "IS_CUT": is_cut}
            part = "cut" if is_cut else "whole"
            vectors = (not is_cut, not is_cut)
            yield f"lamb moments {dtype} {part}", lamb._moments, types, constants, vectors
            if dtype == "fp32":
                yield f"lamb apply {part}", lamb._apply, types, constants, vectors
    yield from compiled_elementwise.cases()


def compile_kernel(kernel, types, constants, capability):
    """Registers, spilled bytes, vector loads and stores of one kernel, instructions an element.

    A loop's instructions count once.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [
        (place,)
        for place, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or name in ("V", "H", "N", "num_columns", "K", "padded")
    ]
    num_warps = constants.get("num_warps", 8)  # an option of the launch, no argument of the kernel
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={name: constants[name] for name in signature if name in constants},
        attrs={place: [["tt.divisibility", 16]] for place in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
    assembly = compiled.asm
    ptx = assembly["ptx"]
    has_tiles = {"ROWS", "GROUP", "BLOCK_T"} & set(constants)  # whose loops are not of whole rows
    elements = 0 if has_tiles else constants["BLOCK"] / (32 * num_warps)  # of one thread
    return {
        **assemble(ptx),
        "shared_bytes": compiled.metadata.shared,
        "per_element": elements and round(count_instructions(assembly["cubin"]) / elements, 1),
        "vector_loads": len(re.findall(r"ld\.global\S*\.v[24]", ptx)),
        "vector_stores": len(re.findall(r"st\.global\S*\.v[24]", ptx)),
    }


def assemble(ptx):
    """What ptxas says; newer PTX needs the second one that triton brings."""
    import triton

    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    name = re.search(r"\.target\s+(sm_\w+)", ptx).group(1)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        said = "".join(
            subprocess.run(
                [folder / program, "-v", f"--gpu-name={name}", file.name, "-o", os.devnull],
                capture_output=True,
                text=True,
            ).stderr
            for program in ("ptxas", "ptxas-blackwell")
            if (folder / program).exists()
        )
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said).groups()
    return {
        "registers": int(re.search(r"Used (\d+) registers", said).group(1)),
        "spilled_bytes": sum(map(int, spills)),
    }


def count_instructions(cubin):
    """Of one thread, from the machine code, without what only fills it up."""
    import triton

    program = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([program, "-c", file.name], capture_output=True, text=True).stdout
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", said, re.MULTILINE)
    return len([name for name in names if name != "NOP"])


def main():
    rows = [
        {"kernel": name, "capability": capability, "vectors": vectors}
        | compile_kernel(kernel, types, constants, capability)
        for source, capabilities in ((cases, (80, 90)), (compiled_fp8_cast.cases, (89, 90)))
        for name, kernel, types, constants, vectors in source()
        for capability in capabilities
    ]
    print(json.dumps(rows) if "--json" in sys.argv else table(rows))


def table(rows):
    lines = [
        "| kernel | sm | registers | spilled bytes | vector loads | vector stores | per element |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    columns = ("capability", "registers", "spilled_bytes", "vector_loads", "vector_stores")
    lines += [
        f"| {r['kernel']} | {' | '.join(str(r[c]) for c in columns)} | {r['per_element'] or '-'} |"
        for r in rows
    ]
    return "\n".join(lines)


def rows_of(script):
    """What a script like this one finds, in a process that the interpreter has not touched."""
    pytest.importorskip("triton", reason="needs triton (extra dev)")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, script, "--json"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def rows():
    return rows_of(__file__)


def test_nothing_is_spilled(rows):
    assert {row["kernel"]: row["spilled_bytes"] for row in rows if row["spilled_bytes"]} == {}
    assert len(rows) == 24 + 34 + 16


def test_whole_rows_and_blocks_move_as_vectors(rows):
    for row in rows:
        loads, stores = row["vectors"]
        assert (row["vector_loads"] > 0) is loads, row
        assert (row["vector_stores"] > 0) is stores, row


def test_dropout_addition_and_norm_issue_few_instructions(rows):
    found = {
        (row["kernel"], row["capability"]): row["per_element"]
        for row in rows
        if "add, norm" in row["kernel"]
    }
    # With a random number of its own for each element: 93 to 108.
    assert len(found) == 16 and max(found.values()) <= 62, found


def test_fp8_tiles_are_turned_as_bytes(rows):
    """As 16-bit numbers, all that follows would be computed twice."""
    from ds_bert_kernels import fp8_cast

    turned = [row["shared_bytes"] for row in rows if row["kernel"].startswith("fp8 ")]
    assert max(turned) == fp8_cast.BLOCK_T * fp8_cast.BLOCK_K


if __name__ == "__main__":
    main()
