"""The element-wise kernels as test_compiled_kernels.py compiles them."""

SUMS = ("mean", "rstd", "bias_sums", "weight_sums", "norm_bias_sums", "partials")
SUMS += ("first_sums", "second_sums")
IDS = ("input_ids", "token_type_ids", "position_ids", "seed")
SIZES = ("H", "N", "T", "each", "threshold", "num_programs", "num_columns")
TYPES = dict.fromkeys(SUMS, "*fp32") | dict.fromkeys(SIZES, "i32")
TYPES |= dict.fromkeys(IDS, "*i64") | {"eps": "fp32", "scale": "fp32"}


def cases():
    """As `test_compiled_kernels.cases`; constants have the warps of BERT-large's rows of 1,024."""
    from ds_bert_kernels import bias_gelu, column_sums, dropout_add_norm, embeddings

    norms = {"forward": dropout_add_norm._norm_forward, "backward": dropout_add_norm._norm_backward}
    warps = {"forward": 1, "backward": 2}
    gelus = {"forward": bias_gelu._gelu_forward, "backward": bias_gelu._gelu_backward}
    for dtype in ("bf16", "fp32"):
        for way, kernel in norms.items():
            for dropout in (True, False) if dtype == "bf16" else (True,):
                constants = {"BLOCK": 1024, "HAS_DROPOUT": dropout, "num_warps": warps[way]}
                name = f"{'dropout, ' * dropout}add, norm {way} {dtype}"
                yield name, kernel, types(kernel, dtype), constants, (True, True)
        # With the gradient of a second use; a pointer that is None is a constant.
        name = f"dropout, add, norm backward {dtype}, one use"
        constants = {"BLOCK": 1024, "HAS_DROPOUT": True, "num_warps": 2, "other": None}
        yield (
            name,
            norms["backward"],
            types(norms["backward"], dtype, "other"),
            constants,
            (True, True),
        )
        for way, kernel in gelus.items():
            for is_tanh in (False, True) if dtype == "bf16" else (False,):
                constants = {"BLOCK": 1024, "IS_TANH": is_tanh, "num_warps": 4}
                name = f"bias, gelu {'tanh ' * is_tanh}{way} {dtype}"
                yield name, kernel, types(kernel, dtype), constants, (True, True)
    kernels = {"forward": embeddings._embed_forward, "backward": embeddings._embed_backward}
    for way, kernel in kernels.items():
        constants = {"BLOCK": 1024, "HAS_DROPOUT": True, "num_warps": warps[way]}
        yield f"embeddings {way} bf16", kernel, types(kernel, "bf16"), constants, (True, True)
    kernel = column_sums._column_sums
    constants = {"COLUMNS": column_sums._COLUMNS, "ROWS": column_sums._ROWS, "num_warps": 4}
    yield "column sums bf16", kernel, types(kernel, "bf16"), constants, (True, False)


def types(kernel, dtype, absent=None):
    """What is neither a sum nor a size is an activation or a parameter."""
    names = [name for name in kernel.arg_names if name in TYPES or name.islower()]
    return {name: TYPES.get(name, f"*{dtype}") for name in names if name != absent}
