"""A BERT that was read from anywhere, and what makes it complete: configuration, shapes, heads."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

from ds_bert.errors import CheckpointError, ConfigurationError
from ds_bert.model.pretrained import read_config_file
from ds_bert.tokenizer.vocabulary import Vocabulary

CONFIGS = ("bert_config.json", "config.json")
VOCABULARY = "vocab.txt"
EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
POSITIONS = "bert.embeddings.position_embeddings.weight"
OUTPUT_BIAS = "cls.predictions.bias"
DECODER = "cls.predictions.decoder"  # tied to both
# What a BERT without one of its two objectives lacks.
HEADS = {
    "bert.pooler": "pooler",
    "cls.predictions": "masked-LM head",
    "cls.seq_relationship": "next-sentence head",
}
UNTIED = (
    "its output weights are not its word embeddings, as BERT's are; now they are: hidden states "
    "are those of the source, masked-LM logits are not"
)


@dataclass
class SourceModel:
    """A BERT for pre-training: masked-LM and next-sentence head on its encoder.

    Attributes:
        kind: what the source is, in words.
        place: its path, or id on the hub.
        config: its sizes.
        weights: fp32 by their names in BertForPreTraining, tied ones once.
        vocabulary: its tokens; None: not known.
        do_lower_case: its tokenizer's casing; None: not known.
        may_be_padded: whether rows after the vocabulary only fill it up to a multiple of 8, as the
            programs of NVIDIA and bing_bert do; otherwise they may mean something.
        left_out: names of the source that a BertForPreTraining has no place for.
        initialised: heads that the source lacks.
        notes: what else its owner should know.
    """

    kind: str
    place: str
    config: BertConfig
    weights: dict[str, Tensor]
    vocabulary: Vocabulary | None = None
    do_lower_case: bool | None = None
    may_be_padded: bool = True
    left_out: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def found(self) -> str:
        """Kind and place."""
        return f"{self.kind} {self.place}"


def weight_shapes(config: BertConfig) -> dict[str, torch.Size]:
    """Shape of each weight of a BertForPreTraining by its name, tied ones once.

    Raises:
        ConfigurationError: no model can be of these sizes.
    """
    try:
        with torch.device("meta"):
            model = BertForPreTraining(config)
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise ConfigurationError(
            f"no BERT can be of these sizes: {error}; look at its configuration"
        ) from None
    tied = model._tied_weights_keys
    return {name: value.shape for name, value in model.named_parameters() if name not in tied}


def complete(model: SourceModel, seed: int) -> None:
    """Check the weights against the configuration, sort out what is none, initialise what is not
    there.

    Args:
        model: with the weights as they were found, in any floating-point type; changed in place.
            Its vocabulary size becomes the number of word embeddings.
        seed: of the weights of a head that is not there.

    Raises:
        CheckpointError: weights of the encoder are missing, too many, or of another shape.
    """
    model.config.tie_word_embeddings = True  # as in all of ds_bert's models
    if EMBEDDINGS in model.weights:
        model.config.vocab_size = len(model.weights[EMBEDDINGS])
    shapes = weight_shapes(model.config)
    model.left_out += sorted(model.weights.keys() - shapes.keys())
    _check_encoder(model, shapes)
    if f"{DECODER}.weight" in model.left_out:
        model.notes.append(UNTIED)
    generator = torch.Generator().manual_seed(seed)
    found, model.weights = model.weights, {}
    for name, shape in shapes.items():
        if name in found:
            model.weights[name] = _checked(found[name], shape, f"{model.found}: {name}")
        else:
            model.weights[name] = _initial(name, shape, model.config.initializer_range, generator)
    missing = [name for name in shapes if name not in found]
    heads = [head for head in HEADS if any(name.startswith(f"{head}.") for name in missing)]
    model.initialised = [f"{HEADS[head]} ({head}.*)" for head in heads]


def _check_encoder(model: SourceModel, shapes: dict[str, torch.Size]) -> None:
    """All of the encoder has to be there, and no more layers than the configuration says."""
    heads = tuple(f"{head}." for head in HEADS)
    missing = [n for n in shapes if n not in model.weights and not n.startswith(heads)]
    layers = [name for name in model.left_out if name.startswith("bert.encoder.layer.")]
    for names, what in ((missing, "are missing"), (layers, "have no place in its configuration")):
        if names:
            raise CheckpointError(
                f"{model.found}: {len(names)} weights of the encoder {what} (first: {names[0]}); "
                "name its own configuration with --bert_config_file, or a complete BERT"
            )


def _checked(weight: Tensor, shape: torch.Size, name: str) -> Tensor:
    """A weight in fp32, if it is of its shape and finite."""
    if not weight.is_floating_point():
        raise CheckpointError(
            f"{name} is quantised ({weight.dtype}), expected floating-point numbers; name the "
            "model that it was made of"
        )
    if weight.shape != shape:
        raise CheckpointError(
            f"{name} has the shape {tuple(weight.shape)}, its configuration says {tuple(shape)}; "
            "name the right one with --bert_config_file"
        )
    if not weight.isfinite().all():
        raise CheckpointError(
            f"{name} holds numbers that are not finite; name a checkpoint from before its training "
            "diverged"
        )
    return weight.detach().to(torch.float32).contiguous()


def _initial(name: str, shape: torch.Size, deviation: float, generator: torch.Generator) -> Tensor:
    """A new weight, as BERT is initialised (google-research/bert, modeling.py)."""
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if "LayerNorm" in name:
        return torch.ones(shape)
    return torch.empty(shape).normal_(0.0, deviation, generator=generator)


def find_config(named: str | None, folders: Iterable[Path]) -> BertConfig:
    """The configuration that the user named, or the one that lies beside the weights.

    Raises:
        ConfigurationError: there is none, or it is no BERT's.
    """
    folders = list(folders)
    beside = (folder / name for folder in folders for name in CONFIGS)
    path = Path(named) if named else next((path for path in beside if path.is_file()), None)
    if path is None:
        raise ConfigurationError(
            f"no {' or '.join(CONFIGS)} in {folders[0]}; name the model's with --bert_config_file"
        )
    return read_config_file(path)


def find_vocabulary(named: str | None, folders: Iterable[Path]) -> Vocabulary | None:
    """The vocabulary that the user named, or the one that lies beside the weights, if any."""
    beside = (folder / VOCABULARY for folder in folders)
    path = Path(named) if named else next((path for path in beside if path.is_file()), None)
    return None if path is None else Vocabulary.read(path)
