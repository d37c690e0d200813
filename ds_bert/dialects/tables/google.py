"""google-research/bert: create_pretraining_data.py and run_pretraining.py.

Source: google-research/bert, run_pretraining.py, optimization.py; TensorFlow 1, RunConfig.
"""

from typing import Any

from ds_bert.config import MICRO_BATCH, SECTION
from ds_bert.dataset.store import TokenStore
from ds_bert.dialects import sources
from ds_bert.dialects.draft import Draft, one, refuse_if
from ds_bert.dialects.flags import Given, answered, boolean, obeyed, refused, table, whole

_TPU = "is about TPUs; here: GPUs and CPUs, started by deepspeed or torchrun"

CREATE_PRETRAINING_DATA = table(
    obeyed("input_file", str, None, "input_file"),
    obeyed("output_file", str, None, "output_dir; .json, .tfrecord, .hdf5: that format"),
    obeyed("vocab_file", str, None, "vocab_file"),
    obeyed("do_lower_case", boolean, True, "do_lower_case"),
    obeyed("do_whole_word_mask", boolean, False, "do_whole_word_mask"),
    obeyed("max_seq_length", whole, 128, "max_seq_length"),
    obeyed("max_predictions_per_seq", whole, 20, "max_predictions_per_seq"),
    obeyed("random_seed", whole, 12345, "random_seed"),
    obeyed("dupe_factor", whole, 10, "dupe_factor"),
    obeyed("masked_lm_prob", float, 0.15, "masked_lm_prob"),
    obeyed("short_seq_prob", float, 0.1, "short_seq_prob"),
)
RUN_PRETRAINING = table(
    obeyed("bert_config_file", str, None, "model: random weights of this config.json"),
    obeyed(
        "input_file", str, None, "train_data: globs and comma lists of TFRecords, or a data set"
    ),
    obeyed("output_dir", str, "runs/default", "output_dir"),
    obeyed("init_checkpoint", str, None, "init_from: a run, or a Hugging Face folder"),
    obeyed("max_seq_length", whole, 128, "max_seq_length"),
    obeyed("max_predictions_per_seq", whole, 20, "max_predictions_per_seq, as the data have it"),
    obeyed("do_train", boolean, False, "false with do_eval true: evaluates instead of training"),
    obeyed("do_eval", boolean, False, "validates at the end, on input_file as there"),
    obeyed("train_batch_size", whole, 32, "train_batch_size, of all ranks together"),
    obeyed("eval_batch_size", whole, 8, "eval_batch_size"),
    obeyed("learning_rate", float, 5e-5, "optimizer.params.lr"),
    obeyed("num_train_steps", whole, 100_000, "max_steps"),
    obeyed("num_warmup_steps", whole, 10_000, "warmup_steps"),
    obeyed("save_checkpoints_steps", whole, 1000, "save_interval"),
    obeyed("max_eval_steps", whole, 100, "max_eval_sequences = this x eval_batch_size"),
    answered("iterations_per_loop", whole, 1000, _TPU),
    refused("use_tpu", boolean, False, f"trains on a TPU; it {_TPU}"),
    *(answered(name, str, None, _TPU) for name in ("tpu_name", "tpu_zone", "gcp_project")),
    answered("master", str, None, "names a TensorFlow server; here: deepspeed --hostfile"),
    answered("num_tpu_cores", whole, 8, _TPU),
    obeyed("vocab_file", str, None, "vocabulary of the records; else vocab.txt beside the config"),
)


def preprocess(given: Given) -> dict[str, Any]:
    """Options of ds-bert preprocess: exact mode, and the defaults of Google's script."""
    refuse_if(not given["input_file"], "--input_file is missing")
    own = CREATE_PRETRAINING_DATA.keys() - {"input_file", "output_file"}
    options = {name: given[name] for name in sorted(own & given.keys())}
    options |= {"max_seq_length": [given["max_seq_length"]]}
    options |= {"max_predictions_per_seq": [given["max_predictions_per_seq"]]}
    options |= {"input_file": one(given["input_file"]), "mode": "exact"}
    options |= {"vocab_file": given["vocab_file"] or "data/vocab.txt"}
    return options | ({"output_dir": given["output_file"]} if given["output_file"] else {})


def train(given: Given, draft: Draft) -> None:
    """Make the recipe that trains as run_pretraining.py would; opens the data.

    Raises:
        ConfigurationError, DataError: what cannot be had, or does not fit.
    """
    _put_optimizer(given, draft)
    _put_batch(given, draft)
    _put_model(given, draft)
    store = _open(given, draft)
    length = draft.length()
    folder = str(store.folder)
    draft.put_fields(
        {
            "train_data": (folder, "input_file"),
            "validation_data": (folder if given["do_eval"] else "", "do_eval"),
            "objective": (store.instances(length).options.objective,),
            "max_seq_length": (length, "max_seq_length"),
            "output_dir": (given["output_dir"], "output_dir"),
            "max_steps": (given["num_train_steps"], "num_train_steps"),
            "lr_scheduler_type": ("google",),
            "save_interval": (given["save_checkpoints_steps"], "save_checkpoints_steps"),
            "keep_checkpoints": (5,),  # keep_checkpoint_max of the Estimator
            "log_interval": (100,),  # its log_step_count_steps
            "eval_interval": (0,),
            "eval_batch_size": (given["eval_batch_size"], "eval_batch_size"),
            "max_eval_sequences": (_num_evaluated(given), "max_eval_steps", "eval_batch_size"),
        }
    )
    warmup = min(given["num_warmup_steps"], given["num_train_steps"])
    draft.put_warmup("warmup_steps", warmup, "num_warmup_steps")
    if "max_predictions_per_seq" in given.explicit:
        name = "max_predictions_per_seq"
        draft.put(f"{SECTION}.{name}", given[name], name)


def evaluate(given: Given, draft: Draft) -> dict[str, Any]:
    """Arguments of ds-bert evaluate: what run_pretraining.py --do_eval looks at."""
    name = given["init_checkpoint"] or given["output_dir"]
    checkpoint = sources.find_checkpoint(name)
    if checkpoint is None:
        sources.refuse_foreign_weights(name, "init_checkpoint")
    return {
        "checkpoint": str(checkpoint or name),
        "data": str(_open(given, draft, str(checkpoint / "hf") if checkpoint else name).folder),
        "max_seq_length": given["max_seq_length"],
        "eval_batch_size": given["eval_batch_size"],
        "max_eval_sequences": _num_evaluated(given),
    }


def is_evaluation(given: Given) -> bool:
    """Whether the command line asks for an evaluation and no training."""
    return bool(given["do_eval"]) and not given["do_train"]


def _num_evaluated(given: Given) -> int:
    return given["max_eval_steps"] * given["eval_batch_size"]


def _open(given: Given, draft: Draft, *more: str) -> TokenStore:
    names = one(given["input_file"]) or draft.own("train_data")
    refuse_if(not names, "--input_file is missing: TFRecords, or a data set of ds-bert preprocess")
    beside = (given["vocab_file"], given["bert_config_file"], given["init_checkpoint"], *more)
    return sources.open_set(
        names,
        vocabulary=sources.vocabulary_beside(*beside),
        max_seq_length=draft.length(),
    )


def _put_batch(given: Given, draft: Draft) -> None:
    size = given["train_batch_size"]
    draft.put("train_batch_size", size, "train_batch_size")
    share = draft.batch // draft.world_size
    draft.put(MICRO_BATCH, max(1, share), "train_batch_size")


def _put_optimizer(given: Given, draft: Draft) -> None:
    """Adam without bias correction, with decoupled decay."""
    draft.put("optimizer.type", "AdamW")
    draft.put("optimizer.params.lr", given["learning_rate"], "learning_rate")
    rest = {"betas": [0.9, 0.999], "eps": 1e-6, "weight_decay": 0.01, "bias_correction": False}
    for name, value in rest.items():
        draft.put(f"optimizer.params.{name}", value)
    draft.put("gradient_clipping", 1.0)
    draft.put("zero_optimization.stage", 1)


def _put_model(given: Given, draft: Draft) -> None:
    if given["bert_config_file"]:
        model = sources.config_of(given["bert_config_file"], "bert_config_file")
        draft.put(f"{SECTION}.model", model, "bert_config_file")
    start = given["init_checkpoint"]
    if start:
        sources.refuse_foreign_weights(start, "init_checkpoint")
        found = sources.find_checkpoint(start)
        draft.put(f"{SECTION}.init_from", str(found or start), "init_checkpoint")
