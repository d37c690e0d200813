"""bing_bert of DeepSpeedExamples: deepspeed_train.py with its two JSON files.

Source: microsoft/DeepSpeedExamples, training/bing_bert (deepspeed_train.py, utils.py,
nvidia_bert_dataset_provider.py, pytorch_pretrained_bert/optimization.py).
"""

from pathlib import Path
from typing import Any

from ds_bert.config import SECTION
from ds_bert.dialects import sources
from ds_bert.dialects.draft import Draft, refuse_if
from ds_bert.dialects.flags import Given, answered, boolean, obeyed, refused, table, whole
from ds_bert.strict_json import load_json

_KERNEL = (
    "chooses DeepSpeed's transformer kernel or saves its memory; here: own layers, chosen at the "
    "start; leave it out"
)
_LOADING = "is about loader processes; here a thread works two steps ahead on a memory map"
_LONG = 2**63 - 1  # sys.maxsize

DEEPSPEED_TRAIN = table(
    obeyed("config_file", str, None, "the JSON below: model, data, schedule", aliases=("cf",)),
    obeyed("deepspeed_config", str, None, "the file that the flags complete"),
    obeyed("output_dir", str, "runs/default", "output_dir = this/saved_models/job_name",
           aliases=("output",)),
    obeyed("job_name", str, None, "output_dir; not given: name of the JSON"),
    obeyed("max_seq_length", whole, 512, "max_seq_length; which section of the JSON"),
    obeyed("max_predictions_per_seq", whole, 80, "max_predictions_per_seq, as the data have it",
           aliases=("max_pred",)),
    obeyed("seed", whole, 42, "seed"),
    obeyed("max_steps", whole, _LONG, "max_steps, if it is below total_training_steps"),
    obeyed("lr_schedule", str, "LE", "lr_scheduler_type and warmup_power: LE, EE, EP"),
    obeyed("lr_offset", float, 0.0, "optimizer.params.lr, warmup_min_ratio, min_lr_ratio"),
    obeyed("print_steps", whole, 100, "log_interval"),
    obeyed("data_path_prefix", str, "", "train_data: this/pretrain_dataset of the JSON"),
    obeyed("validation_data_path_prefix", str, None, "validation_data, at 512 tokens as there"),
    obeyed("load_training_checkpoint", str, None, "init_from with moments (rewarmup), or resume",
           aliases=("load_cp",)),
    obeyed("load_checkpoint_id", str, None, "step_N of that run; else its newest",
           aliases=("load_cp_id",)),
    obeyed("rewarmup", boolean, False, "steps and schedule begin anew"),
    obeyed("use_pretrain", boolean, False, "init_from bert_model_file of the JSON"),
    obeyed("deepspeed", boolean, False, "DeepSpeed always trains"),
    obeyed("use_nvidia_dataset", boolean, False, "the data are NVIDIA's HDF5 files"),
    obeyed("local_rank", whole, -1, "set by the launcher", aliases=("local-rank",)),
    obeyed("vocab_file", str, None, "vocabulary of the instances; else bert_token_file"),
    answered("do_lower_case", boolean, True, "is about preprocessing, done before training"),
    answered("max_steps_per_epoch", whole, _LONG, "cuts shards short; here a step takes any rows"),
    answered("ckpt_to_save", whole, None, "which shards to save after; here: --save_interval",
             many=True),
    answered("refresh_bucket_size", whole, 1, "is about an old loop for several tasks"),
    answered("finetune", boolean, False, "leaves validation out; here: leave its prefix out"),
    answered("deepspeed_mpi", boolean, False, "ranks of MPI; here: deepspeed, torchrun, srun"),
    *(answered(name, boolean, False, _KERNEL) for name in (
        "deepspeed_transformer_kernel", "stochastic_mode", "attention_dropout_checkpoint",
        "normalize_invertible", "gelu_checkpoint")),
    refused("deepspeed_sparse_attention", boolean, False, "attends sparsely; leave it out"),
    refused("progressive_layer_drop", boolean, False, "skips layers; not here, leave it out"),
)  # fmt: skip
# Keys of the file that --cf names; "LENGTH" is max_seq_length.
CONFIG_KEYS = table(
    obeyed("name", str, None, "job_name"),
    obeyed("bert_token_file", str, None, "vocabulary: a folder, an id or a vocab.txt"),
    obeyed("bert_model_file", str, None, "init_from, with use_pretrain"),
    obeyed("bert_model_config", str, None, "model: random weights of these sizes; vocab_size from "
           "the vocabulary, rounded up to 8, as there"),
    obeyed("data.mixed_seq_datasets.LENGTH.pretrain_dataset", str, None, "train_data"),
    obeyed("mixed_seq_training.LENGTH.total_training_steps", whole, None, "max_steps"),
    obeyed("mixed_seq_training.LENGTH.learning_rate", float, None, "optimizer.params.lr"),
    obeyed("mixed_seq_training.LENGTH.warmup_proportion", float, None, "warmup_steps"),
    obeyed("mixed_seq_training.LENGTH.decay_rate", float, None, "decay_rate"),
    obeyed("mixed_seq_training.LENGTH.decay_step", whole, None, "decay_step"),
    obeyed("mixed_seq_training.LENGTH.weight_decay", float, 0.01, "optimizer.params.weight_decay"),
    obeyed("validation.path", str, None, "validation_data, below its prefix"),
    answered("mixed_seq_training.LENGTH.num_epochs", whole, None,
             "counts shards of the data; here total_training_steps ends the run"),
    answered("mixed_seq_training.LENGTH.num_workers", whole, None, _LOADING),
    answered("mixed_seq_training.LENGTH.async_worker", boolean, None, _LOADING),
    answered("data.flags", str, None, "which kind of data; here the files themselves say it"),
    refused("data.mixed_seq_datasets.LENGTH.wiki_pretrain_dataset", str, None,
            "data of a format that was never released; here: NVIDIA's HDF5 as pretrain_dataset"),
    refused("data.mixed_seq_datasets.LENGTH.bc_pretrain_dataset", str, None,
            "data of a format that was never released"),
)  # fmt: skip
_SCHEDULES: dict[str, dict[str, Any]] = {
    "LE": {"lr_scheduler_type": "exponential"},
    "EE": {"lr_scheduler_type": "exponential", "warmup_power": 2.0},
    "EP": {"lr_scheduler_type": "google", "warmup_power": 1.5, "lr_power": 2.0},
}


def train(given: Given, draft: Draft) -> None:
    """Make the recipe that trains as deepspeed_train.py would; opens the data.

    Raises:
        ConfigurationError, DataError: what cannot be had, or does not fit.
    """
    refuse_if(not given["config_file"], "--cf is missing: bing_bert's JSON of model and data")
    config = load_json(given["config_file"])
    length = given["max_seq_length"]
    settings = _section(config, "mixed_seq_training", length)
    _answer_keys(config, settings, draft)
    vocabulary = given["vocab_file"] or config.get("bert_token_file")
    store = sources.open_set(
        [_train_data(given, config, length)], vocabulary=vocabulary, max_seq_length=length
    )
    draft.put_batch(1, 1, (), ())  # those of the DeepSpeed file
    _put_model(given, config, store.vocabulary.size, draft)
    _put_rates(given, settings, draft)
    draft.put_fields(
        {
            "train_data": (str(store.folder), "data_path_prefix"),
            "validation_data": (
                _validation_data(given, config, vocabulary),
                "validation_data_path_prefix",
            ),
            "objective": (store.instances(length).options.objective,),
            "max_seq_length": (length, "max_seq_length"),
            "seed": (given["seed"], "seed"),
            "log_interval": (given["print_steps"], "print_steps"),
            "output_dir": (_output_dir(given, config), "output_dir"),
        }
    )
    if "max_predictions_per_seq" in given.explicit:
        name = "max_predictions_per_seq"
        draft.put(f"{SECTION}.{name}", given[name], name)
    _put_start(given, config, draft)


def _section(config: dict[str, Any], name: str, length: int) -> dict[str, Any]:
    found = config.get(name, {}).get(str(length))
    refuse_if(
        not isinstance(found, dict),
        f'--cf: no section "{length}" in {name}; add it, or give another --max_seq_length',
    )
    return found


def _answer_keys(config: dict[str, Any], settings: dict[str, Any], draft: Draft) -> None:
    """Tell what keys of the JSON set nothing here."""
    for name in settings:
        flag = CONFIG_KEYS.get(f"mixed_seq_training.LENGTH.{name}")
        refuse_if(flag is None, f'--cf: unknown key "{name}" in mixed_seq_training')
        if flag is not None and flag.status == "answered":
            draft.answers.append(f"{name} of --cf: {flag.text}")
    known = {name.partition(".")[0] for name in CONFIG_KEYS}
    draft.answers += [
        f"{name} of --cf: nothing reads it, nor there" for name in config.keys() - known
    ]
    if "flags" in config.get("data", {}):
        draft.answers.append(f"data.flags of --cf: {CONFIG_KEYS['data.flags'].text}")


def _train_data(given: Given, config: dict[str, Any], length: int) -> str:
    datasets = _section(config.get("data", {}), "mixed_seq_datasets", length)
    name = datasets.get("pretrain_dataset")
    text = CONFIG_KEYS["data.mixed_seq_datasets.LENGTH.wiki_pretrain_dataset"].text
    refuse_if(name is None, f"--cf: {', '.join(datasets)}: {text}")
    return str(Path(given["data_path_prefix"]) / str(name))


def _validation_data(given: Given, config: dict[str, Any], vocabulary: str | None) -> str:
    prefix, path = given["validation_data_path_prefix"], config.get("validation", {}).get("path")
    if prefix is None or path is None or given["max_seq_length"] != 512 or given["finetune"]:
        return ""
    names = [str(Path(prefix) / path)]
    return str(sources.open_set(names, vocabulary=vocabulary, max_seq_length=512).folder)


def _output_dir(given: Given, config: dict[str, Any]) -> str:
    name = given["job_name"] or config.get("name", "default")
    return str(Path(given["output_dir"]) / "saved_models" / name)


def _put_model(given: Given, config: dict[str, Any], vocab_size: int, draft: Draft) -> None:
    sizes = dict(config.get("bert_model_config", {}))
    sizes.pop("vocab_size_or_config_json_file", None)
    sizes["vocab_size"] = (vocab_size + 7) // 8 * 8
    draft.put(f"{SECTION}.model", sources.model_file(sizes), "config_file")
    if given["use_pretrain"]:
        name = config.get("bert_model_file", "")
        sources.refuse_foreign_weights(name, "use_pretrain")
        draft.put(f"{SECTION}.init_from", name, "use_pretrain")


def _put_rates(given: Given, settings: dict[str, Any], draft: Draft) -> None:
    """Rate and schedule: the JSON's, which deepspeed_train.py sets in every step itself."""
    name, offset = given["lr_schedule"], given["lr_offset"]
    refuse_if(name not in _SCHEDULES, f"--lr_schedule {name}: expected {', '.join(_SCHEDULES)}")
    for key in ("total_training_steps", "learning_rate", "warmup_proportion"):
        refuse_if(key not in settings, f'--cf: "{key}" is missing in mixed_seq_training')
    total, fields = settings["total_training_steps"], dict(_SCHEDULES[name])
    steps = min(total, given["max_steps"])
    refuse_if(
        name == "EP" and steps < total,
        f"--max_steps {steps} with --lr_schedule EP, which ends with the run here: set "
        "total_training_steps in the file of --cf instead",
    )
    rate, warmup = settings["learning_rate"], round(settings["warmup_proportion"] * total)
    if steps < warmup:  # the run ends inside the warm-up, so its end is the peak
        rate *= (steps / warmup) ** fields.get("warmup_power", 1.0)
    if offset:
        floor = offset / (rate + offset)
        fields |= {"warmup_min_ratio": floor, "min_lr_ratio": floor}
    if fields["lr_scheduler_type"] == "exponential":
        fields |= {key: settings.get(key) for key in ("decay_rate", "decay_step")}
    fields |= {"max_steps": steps, "warmup_steps": min(warmup, steps)}
    draft.put_fields({key: (value, "config_file") for key, value in fields.items()})
    params = draft.recipe.setdefault("optimizer", {"type": "Lamb"}).setdefault("params", {})
    params["lr"] = rate + offset
    params.setdefault("weight_decay", settings.get("weight_decay", 0.01))


def _put_start(given: Given, config: dict[str, Any], draft: Draft) -> None:
    name = given["load_training_checkpoint"]
    if name is None:
        return
    wanted = Path(name) / "checkpoints" / str(given["load_checkpoint_id"])
    found = wanted if wanted.is_dir() else sources.find_checkpoint(name)
    refuse_if(
        found is None,
        f"--load_training_checkpoint {name}: no run of ds_bert; a checkpoint of DeepSpeed is "
        f"converted first: ds-bert convert-model --model {name} --output_dir "
        "models/converted; then --init_from models/converted",
    )
    if given["rewarmup"]:
        draft.put(f"{SECTION}.init_from", str(found), "load_training_checkpoint")
        draft.put(f"{SECTION}.carry_moments", True, "rewarmup")
    else:
        draft.put(f"{SECTION}.resume", str(found), "load_training_checkpoint")
