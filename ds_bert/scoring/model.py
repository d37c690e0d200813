"""Stock models of transformers with a head for the task; all is checked before any work."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from ds_bert.checkpoint.verify import find_model
from ds_bert.errors import CheckpointError, ConfigurationError
from ds_bert.scoring.options import TAGGING, ScoreOptions


@dataclass(frozen=True)
class Contestant:
    """A model to be scored.

    Attributes:
        name: as the user wrote it.
        folder: Hugging Face folder or id.
        is_trained: False: its architecture with random weights.
        config: of transformers, with the classes of the task.
        tokenizer: of transformers.
        model_class: the Auto class of the task.
    """

    name: str
    folder: str
    is_trained: bool
    config: Any
    tokenizer: Any
    model_class: Any

    def new_model(self, seed: int) -> PreTrainedModel:
        """The model in fp32; what is not in its file (the head, all of it) is drawn from `seed`.

        Raises:
            CheckpointError: its weights cannot be read, or some of the encoder are missing.
        """
        torch.manual_seed(seed)
        if not self.is_trained:
            return self.model_class.from_config(
                self.config, dtype=torch.float32, trust_remote_code=False
            )
        try:
            model, info = self.model_class.from_pretrained(
                self.folder,
                config=self.config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the head of another task gives way
                dtype=torch.float32,
                trust_remote_code=False,
            )
        except Exception as error:  # safetensors, JSON and OS errors share no base class
            raise CheckpointError(
                f"model {self.name}: cannot be loaded ({_first_line(error)}), expected weights of "
                "transformers; name another model"
            ) from None
        encoder = f"{model.base_model_prefix}."
        bad = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        # A model that has seen no pairs has no pooler.
        bad = {key for key in bad if key.startswith(encoder) and ".pooler." not in key}
        if bad:
            raise CheckpointError(
                f"model {self.name}: found {len(bad)} weights of the encoder missing or of another "
                f"shape (first: {min(bad)}), expected a whole model; name another one"
            )
        return model


def find_contestant(
    name: str,
    classes: list[str],
    options: ScoreOptions,
    is_trained: bool = True,
    folder: str | None = None,
) -> Contestant:
    """What belongs to a model: configuration and tokenizer, checked against the task.

    Args:
        name: run, checkpoint, or Hugging Face folder or id.
        classes: of the task.
        options: task and length.
        is_trained: False: random weights.
        folder: where the model is; None: as the name says.

    Raises:
        CheckpointError: nothing there, nothing undamaged, or no vocabulary.
        ConfigurationError: no such model, or sequences too long for it.
    """
    folder = folder or find_model(name)[0]
    try:
        config = AutoConfig.from_pretrained(
            folder,
            num_labels=len(classes),
            id2label=dict(enumerate(classes)),
            label2id={label: number for number, label in enumerate(classes)},
            trust_remote_code=False,
        )
    except (OSError, ValueError):
        raise ConfigurationError(
            f"model {name!r}: found no model of that name, expected a run, a checkpoint, a Hugging "
            "Face folder, or an id that is in reach; check the name"
        ) from None
    positions = getattr(config, "max_position_embeddings", None) or options.max_seq_length
    if positions < options.max_seq_length:
        raise ConfigurationError(
            f"max_seq_length: found {options.max_seq_length}, expected at most "
            f"max_position_embeddings of {name}, {positions}; choose a shorter length"
        )
    is_tagging = options.task == TAGGING
    kind = AutoModelForTokenClassification if is_tagging else AutoModelForSequenceClassification
    return Contestant(name, folder, is_trained, config, _tokenizer(name, folder, config), kind)


def _tokenizer(name: str, folder: str, config: Any) -> Any:
    """The model's tokenizer; transformers makes one of special tokens where there are no files."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever its files bring about
        raise CheckpointError(
            f"model {name}: its tokenizer cannot be read ({_first_line(error)}); expected "
            "vocab.txt or tokenizer.json beside the weights; put its own there"
        ) from None
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise CheckpointError(
            f"model {name}: found no vocabulary, expected vocab.txt or tokenizer.json beside the "
            "weights; copy the one that the model was trained with there"
        )
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"model {name}: found a vocabulary of {len(tokenizer):,} tokens, expected at most its "
            f"vocab_size {config.vocab_size:,}; copy the one that it was trained with there"
        )
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
