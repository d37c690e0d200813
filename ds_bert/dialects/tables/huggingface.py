"""Hugging Face: run_mlm.py, run_mlm_no_trainer.py, and its adaptation with next sentences.

Source: huggingface/transformers, trainer.py, training_args.py, optimization.py (5.23).
"""

import math
from typing import Any

from ds_bert.config import SECTION
from ds_bert.dataset.options import MLM
from ds_bert.dataset.store import TokenStore
from ds_bert.dialects import sources
from ds_bert.dialects.draft import Draft, one, refuse_if, share_of
from ds_bert.dialects.flags import Given
from ds_bert.dialects.tables.huggingface_flags import RUN_MLM
from ds_bert.trackers.names import PACKAGES

_SCHEDULES = {
    "linear": "linear",
    "polynomial": "linear",  # with its default exponent of 1; it ends at 1e-7
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
_RENAMED = {  # of run_mlm_no_trainer.py, by TrainingArguments
    "max_train_steps": "max_steps",
    "num_warmup_steps": "warmup_steps",
    "checkpointing_steps": "save_steps",
}
_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused")
_BERT_BASE = {
    "vocab_size": 30522,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}


def train(given: Given, draft: Draft) -> None:
    """Make the recipe that trains as run_mlm.py would; opens the data.

    Raises:
        ConfigurationError, DataError: what cannot be had, or does not fit.
    """
    _put_optimizer(given, draft)
    _put_batch(given, draft)
    vocabulary = _put_model(given, draft)
    files = given["train_file"] or draft.own("train_data")
    store = _open(given, files, "train_file", vocabulary, draft.length())
    length = sources.length_of(store, draft.length())
    per_epoch = sources.steps_of_epoch(
        draft, sources.check_rows(store, length), given["dataloader_drop_last"]
    )
    max_steps = _num_steps(given, draft, per_epoch)
    draft.put_fields(
        {
            "train_data": (str(store.folder), "train_file"),
            "objective": (store.instances(length).options.objective,),
            "max_seq_length": (length, "max_seq_length"),
            "max_steps": (max_steps, "max_steps", "num_train_epochs"),
            "output_dir": (given["output_dir"], "output_dir"),
        }
    )
    draft.put(f"{SECTION}.seed", _seed(given), "seed", "data_seed")
    if "mlm_probability" in given.explicit:
        draft.put(f"{SECTION}.masked_lm_prob", given["mlm_probability"], "mlm_probability")
    _put_schedule(given, draft, max_steps)
    _put_intervals(given, draft, per_epoch, max_steps)
    _put_validation(given, draft, vocabulary, length)
    _put_trackers(given, draft)
    _put_start(given, draft)


def train_without_trainer(given: Given, draft: Draft) -> None:
    """The same for run_mlm_no_trainer.py: no clipping, checkpoints on request, no warm-up flag."""
    saving = given["checkpointing_steps"]
    is_number = saving is not None and saving.isdecimal()
    values: dict[str, Any] = {
        name: given[name] for name in given.explicit if name in RUN_MLM and name != "seed"
    }
    values |= {
        "seed": given["seed"],
        "max_grad_norm": 0.0,
        "max_steps": given["max_train_steps"] or -1,
        "warmup_steps": float(given["num_warmup_steps"]),
        "save_strategy": "steps" if is_number else saving or "no",
        "save_steps": float(saving) if is_number else 500.0,
        "eval_strategy": "epoch" if given["validation_file"] else "no",
        "report_to": given["report_to"] or "all",
    }
    explicit = {_RENAMED.get(name, name) for name in given.explicit}
    explicit |= {"report_to"} if given["with_tracking"] else set()
    draft.given = Given(RUN_MLM, values, explicit)
    train(draft.given, draft)


def evaluate(given: Given, draft: Draft) -> dict[str, Any]:
    """Arguments of ds-bert evaluate: what run_mlm.py --do_eval looks at."""
    name = given["model_name_or_path"]
    refuse_if(not name, "--model_name_or_path is missing: which model to evaluate")
    checkpoint = sources.find_checkpoint(name)
    if checkpoint is None:
        sources.refuse_foreign_weights(name, "model_name_or_path")
    vocabulary = given["tokenizer_name"] or (str(checkpoint / "hf") if checkpoint else name)
    files = given["validation_file"] or draft.own("data")
    store = _open(given, files, "validation_file", vocabulary, given["max_seq_length"])
    return {
        "checkpoint": str(checkpoint or name),
        "data": str(store.folder),
        "max_seq_length": sources.length_of(store, given["max_seq_length"]),
        "only_mlm": given["eval_only_mlm"],
        "eval_batch_size": given["per_gpu_eval_batch_size"] or given["per_device_eval_batch_size"],
        "max_eval_sequences": given["max_eval_samples"] or 0,
    }


def is_evaluation(given: Given) -> bool:
    """Whether the command line asks for an evaluation and no training."""
    asked = given.get("do_train")
    return asked is False or (asked is None and bool(given.get("do_eval")))


def _open(
    given: Given, names: Any, flag: str, vocabulary: str | None, length: int | None
) -> TokenStore:
    refuse_if(not names, f"--{flag} is missing: a data set of ds-bert preprocess, or its file")
    return sources.open_set(
        names,
        vocabulary=vocabulary,
        cache_dir=given["datasets_cache_dir"],
        max_seq_length=length,
        objective=MLM,  # run_mlm.py knows no other
    )


def _num_steps(given: Given, draft: Draft, per_epoch: int) -> int:
    asked = {"max_steps", "num_train_epochs"} & given.explicit
    if not asked and (words := draft.own("max_steps")):
        return int(words[0])
    if given["max_steps"] > 0:
        return given["max_steps"]
    return math.ceil(given["num_train_epochs"] * per_epoch)


def _seed(given: Given) -> int:
    if "seed" not in given.explicit and given["data_seed"] is not None:
        return given["data_seed"]
    return given["seed"]


def _put_batch(given: Given, draft: Draft) -> None:
    micro = given["per_gpu_train_batch_size"] or given["per_device_train_batch_size"]
    names = ("per_device_train_batch_size", "per_gpu_train_batch_size")
    accumulation = "gradient_accumulation_steps"
    draft.put_batch(micro, given[accumulation], names, (accumulation,))


def _put_optimizer(given: Given, draft: Draft) -> None:
    name = given["optim"]
    refuse_if(
        name not in _ADAMW, f"--optim {name}: here {', '.join(_ADAMW)}; Lamb stands in recipes"
    )
    draft.put("optimizer.type", "AdamW", "optim")
    draft.put("optimizer.params.lr", given["learning_rate"], "learning_rate")
    betas = [given["adam_beta1"], given["adam_beta2"]]
    draft.put("optimizer.params.betas", betas, "adam_beta1", "adam_beta2")
    draft.put("optimizer.params.eps", given["adam_epsilon"], "adam_epsilon")
    draft.put("optimizer.params.weight_decay", given["weight_decay"], "weight_decay")
    draft.put("gradient_clipping", given["max_grad_norm"], "max_grad_norm")
    draft.put("zero_optimization.stage", 1)
    for kind in ("bf16", "fp16"):
        if given[kind] or kind in draft.recipe:
            draft.put(f"{kind}.enabled", given[kind], kind)
    if given["torch_compile"] is not None:
        layers = "on" if given["torch_compile"] else "off"
        draft.put(f"{SECTION}.compile_layers", layers, "torch_compile")
    if given["use_cpu"]:
        draft.environment["CUDA_VISIBLE_DEVICES"] = ""


def _put_model(given: Given, draft: Draft) -> str | None:
    """Set where the model comes from; returns what has its vocabulary."""
    vocabulary = given["tokenizer_name"]
    if given["model_name_or_path"]:
        found = sources.put_model(draft, given["model_name_or_path"], "model_name_or_path")
        return vocabulary or found
    kind = given["model_type"]
    refuse_if(kind not in (None, "bert"), f"--model_type {kind}: BERT only; give bert")
    model = "bert-base"
    if given["config_name"]:
        model = sources.config_of(given["config_name"], "config_name")
    elif given["config_overrides"]:
        model = sources.model_file(_BERT_BASE | _overrides(given["config_overrides"]))
    draft.put(f"{SECTION}.model", model, "config_name", "config_overrides", "model_type")
    return vocabulary or sources.vocabulary_beside(given["config_name"])


def _overrides(text: str) -> dict[str, Any]:
    """The changes of config_overrides: name=number or name=word, joined by commas."""
    pairs = [part.partition("=") for part in text.split(",")]
    refuse_if(not all(value for *_, value in pairs), f"--config_overrides {text}: NAME=VALUE,...")
    return {name: _number(value) for name, _, value in pairs}


def _number(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _put_schedule(given: Given, draft: Draft, max_steps: int) -> None:
    name = given["lr_scheduler_type"]
    refuse_if(name not in _SCHEDULES, f"--lr_scheduler_type {name}: here {', '.join(_SCHEDULES)}")
    warmup = share_of(given["warmup_steps"], max_steps) or math.ceil(
        given["warmup_ratio"] * max_steps
    )
    if "scheduler" in draft.recipe:
        draft.fill("scheduler.params.warmup_num_steps", warmup)
        draft.fill("scheduler.params.total_num_steps", max_steps)
        draft.say("lr_scheduler_type", "the scheduler of the file holds, as there")
        return
    draft.put(f"{SECTION}.lr_scheduler_type", _SCHEDULES[name], "lr_scheduler_type")
    if name == "constant":
        warmup = 0
        draft.say("warmup_steps", "not with constant, as there; constant_with_warmup has it")
    draft.put_warmup("warmup_steps", warmup, "warmup_steps", "warmup_ratio")


def _put_intervals(given: Given, draft: Draft, per_epoch: int, max_steps: int) -> None:
    def interval(kind: str, never: int) -> int:
        strategy, steps = given[f"{kind}_strategy"], given[f"{kind}_steps"]
        known = {"no": never, "epoch": per_epoch}
        refuse_if(
            strategy not in (*known, "steps"), f"--{kind}_strategy {strategy}: no, steps or epoch"
        )
        if strategy in known:
            return known[strategy]
        steps = given["logging_steps"] if steps is None else steps
        return max(1, share_of(steps, max_steps))

    save = interval("save", 0)
    fields: dict[str, tuple[Any, ...]] = {
        "log_interval": (interval("logging", max_steps), "logging_steps", "logging_strategy"),
        "save_interval": (save, "save_steps", "save_strategy"),
        "eval_interval": (interval("eval", 0), "eval_steps", "eval_strategy"),
    }
    limit = given["save_total_limit"]
    if limit is None:
        fields["keep_every"] = (save,)  # transformers removes no checkpoint
    else:
        fields["keep_checkpoints"] = (max(2, limit), "save_total_limit")
    draft.put_fields(fields)


def _put_validation(given: Given, draft: Draft, vocabulary: str | None, length: int) -> None:
    folder, is_asked = "", given["do_eval"] or given["eval_strategy"] != "no"
    if is_asked and not given["validation_file"] and not draft.own("validation_data"):
        draft.answers.append(
            "validation: no --validation_file is given; there 5 % of the text is held back, here "
            "ds-bert preprocess makes a data set of it: --validation_data"
        )
    if given["validation_file"] and is_asked:
        store = _open(given, given["validation_file"], "validation_file", vocabulary, length)
        folder = str(store.folder)
    draft.put_fields(
        {
            "validation_data": (folder, "validation_file"),
            "max_eval_sequences": (given["max_eval_samples"] or 0, "max_eval_samples"),
        }
    )
    size = given["per_gpu_eval_batch_size"] or given["per_device_eval_batch_size"]
    names = ("per_device_eval_batch_size", "per_gpu_eval_batch_size")
    draft.put(f"{SECTION}.eval_batch_size", size, *names)


def _put_trackers(given: Given, draft: Draft) -> None:
    names = one(given["report_to"])
    other = [name for name in names if name not in (*PACKAGES, "all", "none")]
    if other:
        draft.say("report_to", f"{', '.join(other)} not offered; {', '.join(PACKAGES)} are")
    if "report_to" in given.explicit:
        kept = [name for name in names if name not in other]
        draft.put(f"{SECTION}.report_to", ",".join(kept) or "none", "report_to")


def _put_start(given: Given, draft: Draft) -> None:
    start = given["resume_from_checkpoint"]
    if start is not None:
        is_path = start.lower() not in ("true", "false")
        found = sources.find_checkpoint(start) if is_path else None
        resume = str(found or start) if is_path else "auto"
        draft.put(f"{SECTION}.resume", resume, "resume_from_checkpoint")
    elif given["overwrite_output_dir"]:
        draft.put(f"{SECTION}.resume", "none", "overwrite_output_dir")
