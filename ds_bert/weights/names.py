"""Names of weights in other PyTorch BERTs, as those of Hugging Face's BertForPreTraining.

* NVIDIA's and bing_bert's fuse a matrix product with its activation: `dense_act`.
* DeepSpeed's transformer kernel has flat names per layer and one matrix for query, key and value.
* Hugging Face's BertModel alone leaves out `bert.`; its oldest files say gamma and beta.

Source: NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT/modeling.py;
microsoft/DeepSpeedExamples, bing_bert/nvidia/modeling.py and modelingpreln.py.
"""

import re

import torch
from torch import Tensor

from ds_bert.errors import CheckpointError
from ds_bert.weights.source import DECODER, EMBEDDINGS, OUTPUT_BIAS

PRE_LAYER_NORM = ("PreAttentionLayerNorm", "PostAttentionLayerNorm", "FinalLayerNorm")
PADDING_BIAS = -1e4  # a token of padding is never predicted
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
_FUSED = re.compile(
    r"(?<=\.intermediate)\.dense\.|(?<=\.pooler)\.dense\.|(?<=\.transform)\.dense\."
)
_KERNEL = re.compile(r"(bert\.encoder\.layer\.\d+\.)((?:attn|inter|output|norm)_\w+)")
_KERNEL_PARTS = {
    "attn_o": "attention.output.dense",
    "attn_n": "attention.output.LayerNorm",
    "inter_": "intermediate.dense",
    "output_": "output.dense",
    "norm_": "output.LayerNorm",
}
_ENDS = {"w": "weight", "b": "bias"}


def is_nvidia(weights: dict[str, Tensor]) -> bool:
    """Whether these are names of NVIDIA's or bing_bert's BERT."""
    return any(".dense_act." in name or _KERNEL.search(name) for name in weights)


def translate(weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights under Hugging Face's names; what has no place there keeps its own.

    Args:
        weights: as they were found.
        source: what to call them in messages.

    Raises:
        CheckpointError: a model that normalises before each block; no BERT of Hugging Face does.
    """
    if odd := next((n for n in weights if any(part in n for part in PRE_LAYER_NORM)), None):
        raise CheckpointError(
            f"{source} is a BERT with layer norms before its blocks (pre-LN; {odd}). "
            "Hugging Face's BERT, and ds_bert, compute them after: its weights would mean nothing "
            "here. Expected a post-LN BERT; pre-train one with ds_bert, or go on with the program "
            "that trained this"
        )
    plain = {_rename(_WRAPPERS.sub("", name)): value for name, value in weights.items()}
    if not any(name.startswith("bert.") for name in plain):
        plain = {_with_bert(name): value for name, value in plain.items()}
    result: dict[str, Tensor] = {}
    for name, value in plain.items():
        result.update(_split_kernel(name, value))
    return _untie(result)


def _rename(name: str) -> str:
    name = name.replace(".dense_act.", ".dense.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _with_bert(name: str) -> str:
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def _split_kernel(name: str, value: Tensor) -> dict[str, Tensor]:
    """A weight of DeepSpeed's transformer kernel as those of a stock layer."""
    found = _KERNEL.fullmatch(name)
    if not found:
        return {name: value}
    layer, part = found.groups()
    end = _ENDS.get(part[-1], "")
    if part[:-1] == "attn_qkv":
        thirds = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return {f"{layer}attention.self.{which}.{end}": third for which, third in thirds}
    stock = _KERNEL_PARTS.get(part[:-1])
    return {f"{layer}{stock}.{end}": value} if stock and end else {name: value}


def _untie(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tied weight once, under the name that it is kept by; a tie that is broken stays."""
    for name, kept in ((f"{DECODER}.weight", EMBEDDINGS), (f"{DECODER}.bias", OUTPUT_BIAS)):
        if name in weights:
            tied = weights.pop(name)
            if not torch.equal(weights.setdefault(kept, tied), tied):
                weights[name] = tied
    return weights


def to_nvidia(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of NVIDIA's BertForPreTraining: its names, the vocabulary a multiple of 8.

    Rows of padding are zero; their bias keeps them from being predicted.
    """
    result = {_FUSED.sub(".dense_act.", name): value for name, value in weights.items()}
    rows = -len(weights[EMBEDDINGS]) % 8
    embeddings = torch.nn.functional.pad(weights[EMBEDDINGS], (0, 0, 0, rows))
    bias = torch.nn.functional.pad(weights[OUTPUT_BIAS], (0, rows), value=PADDING_BIAS)
    tied = {f"{DECODER}.weight": embeddings}
    return result | {EMBEDDINGS: embeddings, OUTPUT_BIAS: bias} | tied
