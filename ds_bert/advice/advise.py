"""From a corpus, hardware and hours to a run: what to do, why, and the recipes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert import files, recipes
from ds_bert.advice import rules
from ds_bert.advice.corpus import Corpus
from ds_bert.advice.recorded import expected_loss
from ds_bert.advice.released import Released, model_of
from ds_bert.config import SECTION
from ds_bert.costs.contradictions import GOOD_EPOCHS
from ds_bert.costs.hours import Speed
from ds_bert.errors import ConfigurationError
from ds_bert.model.pretrained import PRESETS
from ds_bert.run_report.recorded import recorded_runs

_SCRATCH = {128: "recipes/google_base_128", 512: "recipes/google_base_512"}
_GO_ON = {128: "continue/seq128", 512: "continue/seq512"}
_BASE = "bert-base"  # the size of all released models that are known here
_ROWS, _INTERVALS = 500, 20  # of the log; validations and saves of a phase


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A run.

    Attributes:
        corpus: what it reads.
        speed: of the hardware.
        hours: that it may take.
        in_bf16: or in fp32.
        released: the model to go on from; None: random weights.
        model: the preset of its size.
        vocab_size: entries.
        batch: sequences of a step.
        steps: of each phase, by its length.
        epochs: how often the text is gone through.
    """

    corpus: Corpus
    speed: Speed
    hours: float
    in_bf16: bool
    released: Released | None
    model: str
    vocab_size: int
    batch: int
    steps: dict[int, int]
    epochs: float


def advise(
    corpus: Corpus, speed: Speed, in_bf16: bool, hours: float, language: str | None = None
) -> Advice:
    """Apply the rules.

    Args:
        corpus: the text.
        speed: operations per second.
        in_bf16: whether it is in bf16 that the hardware is so fast.
        hours: of training.
        language: of the text, ISO 639; None: not said.
    """
    flops, released = speed.flops_per_second * hours * 3600, model_of(language)
    if released is None or not rules.goes_on(corpus.tokens, flops, True):
        vocab_size = corpus.vocab_size or rules.vocabulary_size(corpus.tokens)
        model, released = rules.model_size(corpus.tokens, flops, vocab_size), None
    else:
        model, vocab_size = _BASE, released.vocab_size
        if corpus.vocab_size != vocab_size:  # its data set has to be made anew
            corpus = corpus._replace(name=corpus.text, vocab_size=None, lengths=())
    shares = _phases(corpus)
    epochs = rules.epochs(corpus.tokens, flops, model, vocab_size)
    a_step = sum(length * share for length, share in shares.items())
    sequences = epochs * corpus.tokens / a_step
    batch = rules.batch_size(sequences)
    steps = {length: max(1, int(sequences / batch * share)) for length, share in shares.items()}
    return Advice(
        corpus=corpus,
        speed=speed,
        hours=hours,
        in_bf16=in_bf16,
        released=released,
        model=model,
        vocab_size=vocab_size,
        batch=batch,
        steps=steps,
        epochs=epochs,
    )


def _phases(corpus: Corpus) -> dict[int, float]:
    """Shares of the steps, of the lengths that there are."""
    there_are = corpus.lengths or tuple(rules.PHASES)
    shares = {length: share for length, share in rules.PHASES.items() if length in there_are}
    if not shares:
        raise ConfigurationError(
            f"{corpus.name}: found sequences of {', '.join(map(str, there_are))} tokens, "
            f"expected {' or '.join(map(str, rules.PHASES))}; preprocess with --max_seq_length"
        )
    return {length: share / sum(shares.values()) for length, share in shares.items()}


def recipe_of(advice: Advice, length: int, output_dir: str = "runs/advised") -> dict[str, Any]:
    """The recipe of a phase: one that comes with ds_bert, with other numbers."""
    names = _GO_ON if advice.released else _SCRATCH
    recipe, section = _scaled(names[length], advice)
    highest = _scaled(names[min(names)], advice)[0]["optimizer"]["params"]["lr"]
    factor = rules.width_factor(PRESETS[advice.model]["hidden_size"], highest)
    params = recipe["optimizer"]["params"]
    params["lr"] = float(f"{params['lr'] * factor:.3g}")
    if not advice.in_bf16:
        recipe = {key: value for key, value in recipe.items() if key not in ("bf16", "data_types")}
    steps, first = advice.steps[length], min(advice.steps)
    section |= {
        "description": f"advised for {advice.corpus.tokens:.3g} tokens and {advice.hours:g} hours",
        "model": advice.released.name if advice.released else advice.model,
        "train_data": advice.corpus.name if advice.corpus.lengths else section["train_data"],
        "output_dir": f"{output_dir}_{length}",
        "max_steps": steps,
        "log_interval": max(1, steps // _ROWS),
        "eval_interval": max(1, steps // _INTERVALS),
        "save_interval": max(1, steps // _INTERVALS),
    }
    section.pop("warmup_steps", None)
    if length == max(advice.steps):
        section.pop("min_lr_ratio", None)  # where the next phase goes on
    if length == first:
        section["warmup_proportion"] = rules.WARMUP
        section.pop("init_from", None)
        section.pop("carry_moments", None)
    else:
        section["init_from"] = f"{output_dir}_{first}"
    if advice.corpus.lengths:
        section["validation_data"] = _validation_of(advice.corpus.name)
    return {**recipe, SECTION: section}


def _scaled(name: str, advice: Advice) -> tuple[dict[str, Any], dict[str, Any]]:
    recipe = files.parse_json(recipes.find(name).read_text(encoding="utf-8"))
    rate, its_batch = recipe["optimizer"]["params"]["lr"], recipe["train_batch_size"]
    recipe, section = recipes.scale(recipe, recipe.pop(SECTION), advice.batch)
    if advice.released is None:
        factor = rules.batch_factor(advice.batch, its_batch)
        recipe["optimizer"]["params"]["lr"] = rate * factor
    return recipe, section


def save(advice: Advice, path: Path) -> Iterator[str]:
    """Write the recipe of each phase; yields what to do next.

    Raises:
        ConfigurationError: a file cannot be written.
    """
    first, names = min(advice.steps), []
    for length in advice.steps:
        name = path if length == first else path.with_name(f"{path.stem}_{length}{path.suffix}")
        text = files.as_json(recipe_of(advice, length), indent=2)
        try:
            name.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(name, f"{text}\n")
        except OSError as error:
            raise ConfigurationError(
                f"--save_recipe {name}: cannot be written ({error.strerror}); name another file"
            ) from None
        names.append(name)
    yield from _before_training(advice)
    yield from (f"ds-bert train --ds_config {name}" for name in names)
    yield f"its cost: ds-bert train --ds_config {path} --dry_run --probe_steps 20"


def _before_training(advice: Advice) -> Iterator[str]:
    """Commands that make the data set, where there is none."""
    if advice.corpus.lengths:
        return
    source = f"--input_file {advice.corpus.name} --vocab_size {advice.vocab_size}"
    cased = ""
    if advice.released:
        source = f"--model_name_or_path {advice.released.name}"
        cased = " --no_do_lower_case" * advice.released.name.endswith("-cased")
    yield f"ds-bert create-vocab {source}"
    yield f"ds-bert preprocess --input_file {advice.corpus.name}{cased}"


def _validation_of(folder: str) -> str:
    """The data set beside it, if preprocessing has made one."""
    path = Path(folder)
    name = "validation" if path.name == "train" else f"{path.name}_validation"
    beside = path.with_name(name)
    return str(beside) if (beside / files.DATA_SET).is_file() else ""


def describe(advice: Advice) -> Iterator[tuple[str, str]]:
    """The advice for a person, by name, each with its reason."""
    corpus, length = advice.corpus, min(advice.steps)
    exact = "" if corpus.lengths else "about "
    yield "corpus", f"{corpus.name}: {exact}{corpus.tokens:,.0f} tokens"
    yield "speed", f"{advice.speed.flops_per_second:.3g} FLOP/s {advice.speed.source}"
    yield "start", _start(advice)
    parameters = rules.num_parameters(advice.model, advice.vocab_size)
    why = f" ({rules.TOKENS_PER_PARAMETER} tokens for each: Hoffmann et al. 2022)"
    yield "model", f"{advice.model}, {parameters:,} parameters{'' if advice.released else why}"
    yield "vocabulary", _vocabulary(advice)
    phases = ", then ".join(f"{n:,} of {length} tokens" for length, n in advice.steps.items())
    yield "steps", f"{phases} (Devlin et al. 2019), {advice.batch:,} sequences each"
    rate = recipe_of(advice, length)["optimizer"]["params"]["lr"]
    yield "learning rate", f"{rate:g} (by the root of the batch, and the width: Yang et al. 2022)"
    yield "epochs", _epochs(advice)
    yield "expected loss", _loss(advice)


def _start(advice: Advice) -> str:
    if advice.released:
        return (
            f"go on from {advice.released.name}: it knows the language, and there is too little "
            f"text or time for one of your own ({rules.SCRATCH_TOKENS:.0e} tokens: Martin et al. "
            "2020)"
        )
    return "random weights: enough text and time, or no released model is known for the language"


def _vocabulary(advice: Advice) -> str:
    if advice.corpus.vocab_size:
        return f"{advice.vocab_size:,}, that of the data set"
    if advice.released:
        return f"{advice.vocab_size:,}, that of {advice.released.name}"
    return f"{advice.vocab_size:,} (each entry 100 times: Gowda and May 2020)"


def _epochs(advice: Advice) -> str:
    text = f"{advice.epochs:,.2f}"
    if advice.epochs <= GOOD_EPOCHS:
        return f"{text} (up to {GOOD_EPOCHS} are nearly as good as new text: Muennighoff 2023)"
    worth = rules.effective_tokens(1.0, advice.epochs)
    end = "; that uses up the text, not the hours" * (advice.epochs >= rules.MAX_EPOCHS)
    return f"{text}, worth {worth:,.1f} of new text (Muennighoff et al. 2023){end}"


def _loss(advice: Advice) -> str:
    shape = PRESETS[advice.model]
    sizes = shape["num_hidden_layers"], shape["hidden_size"], advice.vocab_size
    found = expected_loss(recorded_runs(), *sizes, advice.epochs * advice.corpus.tokens)
    if found is None or advice.released:
        return "not known: no recorded run of this size went so far"
    return f"masked-LM {found.lowest:.2f} to {found.highest:.2f} in {found.runs} recorded runs"
