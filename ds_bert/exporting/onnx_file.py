"""The model as ONNX, by torch's own exporter, compared with ours before it appears."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ds_bert.errors import ConfigurationError
from ds_bert.exporting.same_model import (
    HIDDEN,
    PAIR_LOGITS,
    TOKEN_LOGITS,
    Difference,
    Outputs,
    differences,
    padded,
    require_same,
)
from ds_bert.exporting.source import ExportSource
from ds_bert.model.batch import Batch

FILE = Path("onnx/model.onnx")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Refuse to begin without the packages.

    Raises:
        ConfigurationError: names those that are missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f'--onnx: {", ".join(missing)} not found; pip install "ds_bert[onnx]", or leave it out'
        )


class _Outputs(nn.Module):
    """A stock model as a function of tensors to a tuple of tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Any:
        found = self.model(input_ids, attention_mask, token_type_ids, output_hidden_states=True)
        logits = [found.get("prediction_logits", found.get("logits"))]
        pairs = [found[PAIR_LOGITS]] if PAIR_LOGITS in found else []
        return (*logits, *pairs, found.hidden_states[-1])


def write_onnx(folder: Path, source: ExportSource) -> None:
    """Write onnx/model.onnx, for any number and length of sequences, of the model in a folder.

    Outputs are named as in transformers: prediction_logits (logits without pairs),
    seq_relationship_logits, last_hidden_state.
    """
    stock = source.model_class.stock
    model: Any = stock.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    is_pair = stock.__name__ == "BertForPreTraining"
    names = [TOKEN_LOGITS, PAIR_LOGITS, HIDDEN] if is_pair else ["logits", HIDDEN]
    dims = {
        0: torch.export.Dim("batch"),
        1: torch.export.Dim("sequence", max=source.config.max_position_embeddings),
    }
    examples = tuple(torch.ones(2, 5, dtype=torch.int64) for _ in INPUTS)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Outputs(model.eval()),
            examples,
            dynamo=True,
            verbose=False,
            input_names=INPUTS,
            output_names=names,
            dynamic_shapes={name: dims for name in INPUTS},
        )
    assert program is not None  # with dynamo
    (folder / FILE).parent.mkdir()
    program.save(folder / FILE)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that it could use, and of its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def compare_with_onnx(folder: Path, own: Outputs, batch: Batch) -> list[Difference]:
    """Differences of ONNX Runtime on an exported folder to our own model.

    Raises:
        CheckpointError: it computes something else.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    inputs = padded(batch)
    names = [output.name for output in session.get_outputs()]
    arrays = session.run(names, {name: inputs[name].numpy() for name in INPUTS})
    found = {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}
    if "logits" in found:
        found[TOKEN_LOGITS] = found.pop("logits")
    is_token = inputs["attention_mask"].bool()
    theirs = {
        name: value if name == PAIR_LOGITS else value[is_token] for name, value in found.items()
    }
    return require_same(differences("ONNX Runtime", own, theirs))
