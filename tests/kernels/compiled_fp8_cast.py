"""The fp8 cast's kernels as test_compiled_kernels.py compiles them; sm_80 has no fp8."""

TYPES = {name: "i32" for name in ("T", "K", "padded", "num_maxima", "num_tiles", "exponent")}
TYPES |= {name: "*u8" for name in ("rows", "columns")}
TYPES |= {name: "*fp32" for name in ("scale", "partial", "amax", "used")}
TYPES |= {"x": "*bf16", "inner": "*bf16", "totals": "*bf16", "maxima": "*i32"}
CASES = {  # E5M2, ACTIVATION, IS_GRADIENT, TRANSPOSES, SUMS
    "cast": (False, 0, False, True, False),
    "cast, no gradient": (False, 0, False, False, False),
    "gelu": (False, 1, False, True, False),
    "gelu tanh": (False, 2, False, True, False),
    "cast + bias gradient": (True, 0, False, True, True),
    "dgelu + bias gradient": (True, 1, True, True, True),
    "dgelu tanh + bias gradient": (True, 2, True, True, True),
}


def cases():
    """As in test_compiled_kernels.py."""
    from ds_bert_kernels import fp8_cast

    names = ("E5M2", "ACTIVATION", "IS_GRADIENT", "TRANSPOSES", "SUMS")
    tile = {"BLOCK_T": fp8_cast.BLOCK_T, "BLOCK_K": fp8_cast.BLOCK_K, "BITS": False}
    for name, values in CASES.items():
        constants = dict(zip(names, values, strict=True)) | tile | {"WRITES": True}
        yield f"fp8 {name}", fp8_cast._cast_tile, TYPES, constants, (True, True)
    constants = {"SUMS": True, "SCALES": True, "BLOCK": fp8_cast._BLOCK, "LANES": fp8_cast._LANES}
    yield "fp8 put together", fp8_cast._put_together, TYPES, constants, (True, False)
