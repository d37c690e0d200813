"""The whole score: data, models, seeds, record."""

import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ds_bert import distributed
from ds_bert.errors import ConfigurationError
from ds_bert.evaluation.bootstrap import LEVEL, NUM_RESAMPLES
from ds_bert.evaluation.compare import as_row
from ds_bert.evaluation.slices import as_fields
from ds_bert.progress import Progress
from ds_bert.run_report.scores import SETTINGS
from ds_bert.scoring.encoding import encode
from ds_bert.scoring.examples import Example, find_classes, read_examples, with_splits
from ds_bert.scoring.figures import FIGURES, Truth, figures, figures_of_one
from ds_bert.scoring.fine_tuning import fine_tune, num_steps, predict
from ds_bert.scoring.model import Contestant, find_contestant
from ds_bert.scoring.options import ScoreOptions


@dataclass(frozen=True)
class Task:
    """The user's task, read.

    Attributes:
        options: of the user.
        train: examples to learn from.
        test: examples to be asked for.
        truth: what is right there.
        largest: number of the class that most training items have.
    """

    options: ScoreOptions
    train: list[Example]
    test: list[Example]
    truth: Truth
    largest: int


def score(options: ScoreOptions) -> dict[str, Any]:
    """Fine-tune models on a task with several seeds, and judge them on its test examples.

    Returns:
        what was done; "accuracy" and "macro_f1", each the mean over seeds, with NAME_interval
        (95 %, over test examples) and NAME_deviation (standard, between seeds); "by_seed";
        "baseline"; in "compare", where other models were asked for, the same of each, with
        "differences".

    Raises:
        ConfigurationError, DataError, CheckpointError: what does not fit, and what to do.
        TrainingDiverged: a loss is not finite.
    """
    _require_one_process()
    task = read_task(options)
    device = distributed.setup()
    found = [_judged(task, model, device) for model in _contestants(task)]
    (record, estimates), *others = found
    for other, theirs in others:
        other["differences"] = {
            name: as_row(estimates[name].minus(theirs[name]), is_loss=False) for name in FIGURES
        }
    compared = {"compare": [other for other, _ in others]} if others else {}
    return _about(task) | record | _baseline(task) | compared


def _require_one_process() -> None:
    if distributed.world_size() > 1:
        raise ConfigurationError(
            f"ds-bert score: found {distributed.world_size()} processes, expected one; start it "
            "without a launcher"
        )


class Scorer:
    """Scores one model after another on a task, which is read once.

    Args:
        options: the task and how to fine-tune; its models are left aside.

    Raises:
        DataError: what is wrong with the user's files.
    """

    def __init__(self, options: ScoreOptions):
        _require_one_process()
        self._task = read_task(options)
        self._device = distributed.setup()

    @property
    def about(self) -> dict[str, Any]:
        """What was done, the same for all models."""
        return _about(self._task)

    def __call__(self, name: str, folder: Path, is_trained: bool = True) -> dict[str, Any]:
        """What `score` returns for one model alone.

        Args:
            name: for people.
            folder: of Hugging Face.
            is_trained: False: its architecture with random weights.

        Raises:
            ConfigurationError, CheckpointError: what does not fit, and what to do.
        """
        task = self._task
        classes, options = task.truth.classes, task.options
        contestant = find_contestant(name, classes, options, is_trained, str(folder))
        record, _ = _judged(task, contestant, self._device)
        return self.about | record | _baseline(task)


def read_task(options: ScoreOptions) -> Task:
    """Read and check the user's files.

    Raises:
        DataError: what is wrong with them.
    """
    train_file, test_file = with_splits(options.train_file, options.test_file)
    train = read_examples(train_file, "train", options)
    test = read_examples(test_file, "test", options)
    classes = find_classes(train, test)
    labels = [classes.index(label) for example in test for label in example.labels]
    examples = np.repeat(np.arange(len(test)), [len(example.labels) for example in test])
    counts = Counter(label for example in train for label in example.labels)
    largest = classes.index(max(classes, key=counts.__getitem__))
    return Task(options, train, test, Truth(classes, np.array(labels), examples), largest)


def _contestants(task: Task) -> list[Contestant]:
    """The models, all loaded once: what is wrong with one shows before the work on another."""
    options, classes = task.options, task.truth.classes
    names = [options.checkpoint] + ([options.compare] if options.compare else [])
    models = [find_contestant(name, classes, options) for name in names]
    if options.untrained:
        models.append(find_contestant(options.checkpoint, classes, options, is_trained=False))
    for model in models:
        model.new_model(seed=0)
    return models


def _judged(
    task: Task, contestant: Contestant, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Record and estimates of one model."""
    guesses = _guesses(task, contestant, device)
    found = figures(task.truth, guesses)
    by_seed = [figures_of_one(task.truth, guess) for guess in guesses]
    record: dict[str, Any] = {"checkpoint": contestant.name, "trained": contestant.is_trained}
    for name in FIGURES:
        values = [one[name] for one in by_seed]
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        record |= as_fields(name, found[name]) | {f"{name}_deviation": deviation}
    return record | {"by_seed": by_seed}, found


def _guesses(
    task: Task, contestant: Contestant, device: torch.device
) -> Sequence[NDArray[np.int64]]:
    """Of each seed the classes of all test items; says how good they are, seed by seed."""
    options, tokenizer = task.options, contestant.tokenizer
    classes, length = task.truth.classes, options.max_seq_length
    train = encode(task.train, tokenizer, classes, length)
    test = encode(task.test, tokenizer, classes, length)
    all_steps = options.seeds * num_steps(len(task.train), options)
    title = contestant.name if contestant.is_trained else f"{contestant.name}, untrained"
    guesses, done = [], 0
    with Progress(title) as progress:

        def tick() -> None:
            nonlocal done
            done += 1
            progress.update(done / all_steps, steps=1)

        for seed in range(options.seeds):
            start = time.monotonic()
            model = contestant.new_model(seed).to(device)
            fine_tune(model, tokenizer, train, options, seed, tick)
            guesses.append(predict(model, tokenizer, test, options.batch_size, task.largest))
            one = figures_of_one(task.truth, guesses[-1])
            shown = f"accuracy {one['accuracy']:.2%}, macro F1 {one['macro_f1']:.2%}"
            seconds = time.monotonic() - start
            tqdm.write(f"{title}, seed {seed}: {shown} ({seconds:.0f} s)", file=sys.stderr)
    return guesses


def _about(task: Task) -> dict[str, Any]:
    options = task.options
    return {
        "checkpoint": options.checkpoint,
        **{name: getattr(options, name) for name in SETTINGS},
        "num_train": len(task.train),
        "num_test": len(task.test),
        "num_test_labels": len(task.truth.labels),
        "classes": task.truth.classes,
        "bootstrap": {"unit": "test example", "num_resamples": NUM_RESAMPLES, "level": LEVEL},
    }


def _baseline(task: Task) -> dict[str, Any]:
    """What is right where every item is said to be of the training examples' largest class."""
    guess = np.full_like(task.truth.labels, task.largest)
    label = task.truth.classes[task.largest]
    return {"baseline": {"label": label, **figures_of_one(task.truth, guess)}}
