"""TF1 checkpoints of google-research/bert: their names, reading and writing.

A kernel of TensorFlow is [in, out], a weight of torch [out, in]; embeddings and the next-sentence
head are kept alike in both.

Source: google-research/bert, modeling.py and run_pretraining.py (`get_masked_lm_output`,
`get_next_sentence_output`), optimization.py (`adam_m`, `adam_v`).
"""

import re
from pathlib import Path

from torch import Tensor
from transformers import BertConfig

from ds_bert.errors import CheckpointError, ConfigurationError
from ds_bert.weights.source import weight_shapes
from ds_bert.weights.tensor_bundle import TensorBundle, write_bundle

CHECKPOINT = "bert_model.ckpt"  # as Google's releases call it
_ENDINGS = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_HEADS = {
    "cls.predictions.bias": "cls/predictions/output_bias",
    "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
}
_LAYER_NORM = {"weight": "gamma", "bias": "beta"}


def tf1_name(name: str) -> tuple[str, bool]:
    """Google's name of a weight of BertForPreTraining, and whether it is transposed there."""
    if name in _HEADS:
        return _HEADS[name], False
    *path, last = name.replace(".layer.", ".layer_").split(".")
    if path[-1].endswith("_embeddings"):
        return "/".join(path), False
    if path[-1] == "LayerNorm":
        last = _LAYER_NORM[last]
    is_kernel = last == "weight"
    return "/".join([*path, "kernel" if is_kernel else last]), is_kernel


def find_prefix(path: Path) -> Path | None:
    """The prefix of the TF1 checkpoint that a user named: it, one of its files, or its folder.

    Raises:
        ConfigurationError: the folder holds several.
        CheckpointError: there are data files but no index.
    """
    prefix = path.parent / _ENDINGS.sub("", path.name)
    if (path.parent / f"{prefix.name}.index").is_file():
        return prefix
    if not path.is_dir():
        if list(path.parent.glob(f"{prefix.name}.data-*-of-*")):
            raise CheckpointError(f"{prefix}.index is missing; copy it again, beside its data")
        return None
    found = sorted(path.glob("*.index"))
    if len(found) > 1:
        names = ", ".join(name.stem for name in found)
        raise ConfigurationError(f"{path} holds several TF1 checkpoints; name one of {names}")
    return found[0].with_suffix("") if found else None


def read_checkpoint(prefix: Path, config: BertConfig) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a checkpoint by their names in BertForPreTraining, and what is left out.

    Raises:
        CheckpointError: damaged, incomplete, or of another kind of model.
    """
    bundle = TensorBundle(prefix)
    places = {tf1_name(name)[0]: name for name in weight_shapes(config)}
    found = [name for name in bundle.entries if name in places]
    if not found:
        raise CheckpointError(_what_else(bundle))
    tensors = bundle.read(found)
    weights = {}
    for name in found:
        _, is_transposed = tf1_name(places[name])
        weights[places[name]] = tensors[name].T if is_transposed else tensors[name]
    left_out = [name for name in bundle.entries if name not in places]
    layers = [name for name in left_out if re.match(r"bert/encoder/layer_\d+/.*[^mv]$", name)]
    if layers:
        raise CheckpointError(
            f"{prefix} has weights that its configuration has no place for (first: {layers[0]}); "
            "name its own configuration with --bert_config_file"
        )
    return weights, left_out


def _what_else(bundle: TensorBundle) -> str:
    names = sorted(bundle.entries)
    if any(name.endswith(".ATTRIBUTES/VARIABLE_VALUE") for name in names):
        return (
            f"{bundle.prefix} is a checkpoint of TensorFlow 2 (objects, not names), expected one "
            "of google-research/bert; convert it with the program that has written it"
        )
    first = f" (first: {names[0]})" if names else ""
    return f"{bundle.prefix} holds {len(names)} variables and none is of a BERT{first}"


def write_checkpoint(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write weights as `bert_model.ckpt`, for `--init_checkpoint` of Google's scripts."""
    tensors = {}
    for name, tensor in weights.items():
        other, is_transposed = tf1_name(name)
        tensors[other] = tensor.T.contiguous() if is_transposed else tensor
    write_bundle(folder / CHECKPOINT, tensors)
