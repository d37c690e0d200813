"""The rules of the advisor, each with its source: where to begin, not the optimum."""

import math
from functools import cache

import torch
from transformers import BertConfig, BertForPreTraining

from ds_bert.model.flops import training_flops
from ds_bert.model.pretrained import PRESETS

PHASES = {128: 0.9, 512: 0.1}  # share of the steps. Source: Devlin et al. 2019, A.2
MAX_EPOCHS = 40.0  # BERT's own. Source: Devlin et al. 2019, A.2
MASKED = 0.15
WARMUP = 0.06  # of the steps. Sources: Izsak et al. 2021; MosaicML's hf-bert-base-uncased.yaml
TOKENS_PER_PARAMETER = 20
SCRATCH_TOKENS = 1e9
_REPEATED = 15.39
_TIMES_SEEN = 100
_BATCHES = tuple(2**power for power in range(5, 13))
_STEPS = 10_000
_LARGEST_RATE = 1e-3


def effective_tokens(unique: float, epochs: float) -> float:
    """How much new text is worth as much as these tokens, gone through so often.

    D' = U + U R* (1 - exp(-R / R*)) for R = epochs - 1 and R* = 15.39: 4 epochs are worth 3.7.
    Source: Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", equation 5. Their
    models are decoders; masks that change from epoch to epoch should do no worse.
    """
    if epochs <= 1:
        return unique * epochs
    return unique * (1 + _REPEATED * -math.expm1((1 - epochs) / _REPEATED))


def goes_on(tokens: float, flops: float, is_released: bool) -> bool:
    """Whether to go on from a released model in place of random weights.

    Where one knows the language, and there are fewer than 1e9 tokens (about 4 GB) or not the
    operations for a BERT-base of one's own.
    Sources: Martin et al. 2020, "CamemBERT": 4 GB of text are as good as 138. Gururangan et al.
    2020, "Don't Stop Pretraining": going on with the text of a domain helps.
    """
    enough = (
        TOKENS_PER_PARAMETER
        * num_parameters("bert-base", 30_522)
        * flops_of_token("bert-base", 30_522)
    )
    return is_released and (tokens < SCRATCH_TOKENS or flops < enough)


def vocabulary_size(tokens: float) -> int:
    """Entries of a vocabulary for so many tokens: 1,024 to 32,768, a multiple of 1,024.

    As many as there are whose rarest is met 100 times, if the V-th has a share of 1 / (V ln V).
    Sources: Gowda and May 2020, "Finding the Optimal Vocabulary Size for Neural Machine
    Translation": 95 % of the entries 100 times. Zipf's law. 32,768: Geiping and Goldstein 2023.
    """
    sizes = range(1024, 32_768 + 1, 1024)
    fitting = [size for size in sizes if tokens / (size * math.log(size)) >= _TIMES_SEEN]
    return max(fitting, default=1024)


def model_size(unique: float, flops: float, vocab_size: int) -> str:
    """The largest preset that sees 20 tokens for each of its parameters, repetition discounted.

    Source: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", for decoders;
    an encoder learns from 15 % of its tokens only, so that fewer would surely be too few.
    """
    fitting = [
        name
        for name in PRESETS
        if effective_tokens(unique, epochs(unique, flops, name, vocab_size))
        >= TOKENS_PER_PARAMETER * num_parameters(name, vocab_size)
    ]
    return max(fitting or ["bert-tiny"], key=lambda name: num_parameters(name, vocab_size))


def epochs(unique: float, flops: float, model: str, vocab_size: int) -> float:
    """How often so many operations go through the text, at most 40 times."""
    return min(MAX_EPOCHS, flops / flops_of_token(model, vocab_size) / unique)


def batch_size(sequences: float) -> int:
    """Sequences of a step: the largest power of two from 32 to 4,096 that leaves 10,000 steps.

    Sources: recipes of record: 7,038 (NVIDIA) to 23,000 steps (Izsak et al. 2021) and batches of
    256 to 4,096 with AdamW; docs/recipes.md.
    """
    return max((size for size in _BATCHES if sequences / size >= _STEPS), default=_BATCHES[0])


def batch_factor(batch: int, recipes_batch: int) -> float:
    """What a rate is multiplied by for another batch, from random weights: the root, at least 1.

    A lower rate for a smaller batch learnt less. Measured with small models: docs/costs.md.
    """
    return max(1.0, math.sqrt(batch / recipes_batch))


def width_factor(hidden_size: int, rate: float) -> float:
    """What a rate for BERT-base is multiplied by for another width; at most 1e-3 comes out.

    Sources: Yang et al. 2022, "Tensor Programs V": Adam's rate goes with 1 / width. 1e-3 is the
    highest published for BERT with AdamW (Izsak et al. 2021).
    """
    scaled = rate * PRESETS["bert-base"]["hidden_size"] / hidden_size
    return min(scaled, max(rate, _LARGEST_RATE)) / rate


@cache
def num_parameters(model: str, vocab_size: int) -> int:
    """Of a preset with its heads, tied weights counted once."""
    with torch.device("meta"):
        return sum(p.numel() for p in BertForPreTraining(_config(model, vocab_size)).parameters())


def flops_of_sequence(model: str, vocab_size: int, length: int) -> float:
    """Operations of training on a full sequence."""
    return training_flops(_config(model, vocab_size), [length], round(MASKED * length))


def flops_of_token(model: str, vocab_size: int) -> float:
    """The same by the token, over both phases."""
    steps = PHASES.items()
    flops = sum(share * flops_of_sequence(model, vocab_size, length) for length, share in steps)
    return flops / sum(share * length for length, share in steps)


def _config(model: str, vocab_size: int) -> BertConfig:
    return BertConfig(**PRESETS[model], vocab_size=vocab_size)
