"""Fine-tuning as in BERT's paper, in plain torch, and the classes that are guessed afterwards.

Source: Devlin et al. 2019, "BERT", appendix A.3: few epochs of Adam with decoupled weight decay, a
warm-up over the first tenth of the steps, then a linear decay to 0.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from ds_bert.errors import TrainingDiverged
from ds_bert.scoring.encoding import UNSEEN, Batch, Encoded, make_batch
from ds_bert.scoring.options import ScoreOptions

WEIGHT_DECAY, WARMUP, MAX_NORM = 0.01, 0.1, 1.0


def fine_tune(
    model: PreTrainedModel,
    tokenizer: Any,
    train: Encoded,
    options: ScoreOptions,
    seed: int,
    tick: Callable[[], None],
) -> None:
    """Train all weights in place.

    Args:
        model: on its device.
        tokenizer: pads.
        train: examples.
        options: epochs, rate, batch size.
        seed: of order and dropout.
        tick: called after each step.

    Raises:
        TrainingDiverged: a loss is not finite.
    """
    orders = _orders(len(train.inputs), options, seed)
    optimizer = torch.optim.AdamW(_groups(model), lr=options.lr)
    schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP * len(orders)), len(orders))
    torch.manual_seed(seed)
    model.train()
    for chosen in orders:
        batch = make_batch(train, chosen.tolist(), tokenizer, model.device)
        if len(batch.targets):  # all words may have been cut off
            loss = cross_entropy(_logits(model, batch), batch.targets)
            if not torch.isfinite(loss):
                raise TrainingDiverged(
                    f"seed {seed}: found a loss of {loss.item()}, expected a finite one; choose a "
                    f"lower --lr than {options.lr:g}"
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
        tick()


@torch.no_grad()
def predict(
    model: PreTrainedModel, tokenizer: Any, test: Encoded, batch_size: int, unseen: int
) -> NDArray[np.int64]:
    """The likeliest class of each item, in the order of the examples.

    Args:
        model: on its device.
        tokenizer: pads.
        test: examples.
        batch_size: examples at once, those of like length together.
        unseen: class of items that were cut off: the same for all models, and no item is left out.
    """
    model.eval()
    found: list[Any] = [np.full(len(places), unseen) for places in test.places]
    by_length = np.argsort([len(one["input_ids"]) for one in test.inputs], kind="stable")
    for chosen in np.array_split(by_length, range(batch_size, len(by_length), batch_size)):
        batch = make_batch(test, chosen.tolist(), tokenizer, model.device)
        guesses, rows = _logits(model, batch).argmax(-1).cpu().numpy(), batch.rows.cpu().numpy()
        for row, number in enumerate(chosen.tolist()):
            found[number][test.places[number] != UNSEEN] = guesses[rows == row]
    return np.concatenate(found).astype(np.int64)


def num_steps(num_examples: int, options: ScoreOptions) -> int:
    """Steps of one seed."""
    return options.epochs * -(-num_examples // options.batch_size)


def _logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Float [n, classes], of each item."""
    logits = model(**batch.inputs).logits
    return logits[batch.rows] if logits.dim() == 2 else logits[batch.rows, batch.places]


def _orders(num_examples: int, options: ScoreOptions, seed: int) -> list[NDArray[np.int64]]:
    """Numbers of the examples of each step; each epoch in an order of its own."""
    generator, size = np.random.default_rng(seed), options.batch_size
    epochs: Iterator[NDArray[np.int64]] = (
        generator.permutation(num_examples) for _ in range(options.epochs)
    )
    return [
        order[first : first + size] for order in epochs for first in range(0, num_examples, size)
    ]


def _groups(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Matrices decay; biases and the scales of layer norms do not."""
    weights = list(model.parameters())
    return [
        {"params": [one for one in weights if one.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [one for one in weights if one.dim() < 2], "weight_decay": 0.0},
    ]
