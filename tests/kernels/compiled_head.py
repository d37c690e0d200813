"""The masked-LM head's kernels as test_compiled_kernels.py compiles them."""

TYPES = {"logits": "*fp32", "bias": "*fp32", "labels": "*i64", "N": "i32", "V": "i32"}
TYPES |= {"log_sums": "*fp32", "losses": "*fp32", "hits": "*i32", "loss_gradient": "*fp32"}
TYPES |= {"column_sums": "*fp32", "ignore_index": "i32"}


def cases():
    """Name, kernel, argument types, constants and whether it reads and writes vectors."""
    import torch
    from ds_bert_kernels import masked_lm_head as head

    for dtype, kind in ((torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "fp32")):
        types = TYPES | {"logits": f"*{kind}"}
        tiles = head._tiles(torch.empty(0, dtype=dtype))
        forward, backward = tiles | {"ROWS": head._ROWS}, tiles | {"GROUP": head._GROUP}
        yield f"head forward {kind}", head._rows_forward, types, forward, (True, False)
        yield f"head backward {kind}", head._rows_backward, types, backward, (True, True)
