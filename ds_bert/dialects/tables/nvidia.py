"""NVIDIA DeepLearningExamples, BERT for PyTorch: create_pretraining_data.py, run_pretraining.py.

Source: PyTorch/LanguageModeling/BERT of NVIDIA/DeepLearningExamples; apex, FusedLAMB.
"""

import math
from pathlib import Path

from ds_bert.config import SECTION
from ds_bert.dataset.store import TokenStore
from ds_bert.dialects import sources
from ds_bert.dialects.draft import Draft, one, refuse_if
from ds_bert.dialects.flags import Given, answered, boolean, obeyed, refused, table, whole
from ds_bert.dialects.tables import google

_MEMORY = "saves memory, computing activations twice; here: --train_micro_batch_size auto fits it"
_AFTER = "adds gradients up over ranks once a step, after accumulation; here always"
_PROFILE = "profiles; here: flops_profiler in a recipe"

CREATE_PRETRAINING_DATA = {
    name: flag
    for name, flag in google.CREATE_PRETRAINING_DATA.items()
    if name != "do_whole_word_mask"
} | table(
    answered("bert_model", str, None, "which tokenizer; here vocab_file and do_lower_case say it")
)
RUN_PRETRAINING = table(
    obeyed("input_dir", str, None, "train_data: a folder of HDF5 files, or a data set"),
    obeyed("config_file", str, None, "model: random weights of this config.json"),
    obeyed("output_dir", str, "runs/default", "output_dir; phase 2: NAME_phase2"),
    obeyed("vocab_file", str, None, "vocabulary of the instances; else beside the config"),
    obeyed("init_checkpoint", str, None, "init_from: a run, or a Hugging Face folder"),
    obeyed("max_seq_length", whole, 512, "max_seq_length"),
    obeyed("max_predictions_per_seq", whole, 80, "max_predictions_per_seq, as the data have it"),
    obeyed("train_batch_size", whole, 32, "train_batch_size = this x ranks; micro-batch = this / "
           "gradient_accumulation_steps"),
    obeyed("gradient_accumulation_steps", whole, 1, "divides train_batch_size, as there"),
    obeyed("learning_rate", float, 5e-5, "optimizer.params.lr"),
    obeyed("max_steps", whole, 1000, "max_steps"),
    obeyed("warmup_proportion", float, 0.01, "warmup_proportion"),
    obeyed("seed", whole, 42, "seed"),
    obeyed("fp16", boolean, False, "fp16, dynamic loss scale", aliases=("amp",)),
    obeyed("loss_scale", float, 0.0, "fp16.loss_scale; 0: dynamic"),
    obeyed("init_loss_scale", whole, 2**20, "fp16.initial_scale_power"),
    obeyed("log_freq", float, 1.0, "log_interval"),
    obeyed("num_steps_per_checkpoint", whole, 100, "save_interval"),
    obeyed("skip_checkpoint", boolean, False, "save_interval 0: the last step alone is saved"),
    obeyed("resume_from_checkpoint", boolean, False, "resume auto; without it none"),
    obeyed("resume_step", whole, -1, "resume: step_N of output_dir"),
    obeyed("phase2", boolean, False, "init_from the run of phase 1 with its moments"),
    obeyed("resume_phase2", boolean, False, "goes on with phase 2, as starting it again does"),
    obeyed("phase1_end_step", whole, 7038, "which checkpoint of phase 1, if it is there"),
    obeyed("do_train", boolean, False, "trains; there nothing happens without"),
    obeyed("disable_jit_fusions", boolean, False, "compile_layers off"),
    obeyed("local_rank", whole, -1, "set by the launcher", aliases=("local-rank",)),
    obeyed("use_env", boolean, False, "the launcher's variables are always read"),
    answered("num_train_epochs", float, 3.0, "decides nothing there either: max_steps does"),
    answered("checkpoint_activations", boolean, False, _MEMORY),
    answered("allreduce_post_accumulation", boolean, False, _AFTER),
    answered("allreduce_post_accumulation_fp16", boolean, False, f"{_AFTER}, in fp16 with fp16"),
    answered("json_summary", str, None, "where the log goes; here: output_dir/metrics.jsonl"),
    answered("disable_progress_bar", boolean, False, "hides a bar; here are lines of a log only"),
    answered("num_workers", whole, 4, "loader processes; here a thread works two steps ahead"),
    answered("no_dense_sequence_output", boolean, False,
             "computes the head at all positions; here at masked ones alone, the loss is the same"),
    answered("cuda_graphs", boolean, False,
             "replays recorded kernels; here --compile_layers on fuses them"),
    answered("bert_model", str, None, "which tokenizer; here the data are made already"),
    answered("profile", boolean, False, _PROFILE),
    answered("profile_start", whole, 0, _PROFILE),
    refused("steps_this_run", whole, -1, "ends after so many steps; here: send SIGUSR1, which "
            "saves and ends with exit 75, and start again"),
)  # fmt: skip


def train(given: Given, draft: Draft) -> None:
    """Make the recipe that trains as NVIDIA's run_pretraining.py would; opens the data.

    Raises:
        ConfigurationError, DataError: what cannot be had, or does not fit.
    """
    _put_optimizer(given, draft)
    _put_batch(given, draft)
    if given["config_file"]:
        model = sources.config_of(given["config_file"], "config_file")
        draft.put(f"{SECTION}.model", model, "config_file")
    store = _open(given, draft)
    length = draft.length()
    saving = 0 if given["skip_checkpoint"] else given["num_steps_per_checkpoint"]
    draft.put_fields(
        {
            "train_data": (str(store.folder), "input_dir"),
            "validation_data": ("",),  # there is none
            "objective": (store.instances(length).options.objective,),
            "max_seq_length": (length, "max_seq_length"),
            "max_steps": (given["max_steps"], "max_steps"),
            "lr_scheduler_type": ("poly",),
            "seed": (given["seed"], "seed"),
            "log_interval": (max(1, int(given["log_freq"])), "log_freq"),
            "save_interval": (saving, "num_steps_per_checkpoint", "skip_checkpoint"),
            "keep_checkpoints": (3,),
        }
    )
    name = "warmup_proportion"
    draft.put_warmup(name, given[name], name)
    if "max_predictions_per_seq" in given.explicit:
        name = "max_predictions_per_seq"
        draft.put(f"{SECTION}.{name}", given[name], name)
    if given["disable_jit_fusions"]:
        draft.put(f"{SECTION}.compile_layers", "off", "disable_jit_fusions")
    _put_start(given, draft)


def _open(given: Given, draft: Draft) -> TokenStore:
    names = one(given["input_dir"]) or draft.own("train_data")
    refuse_if(not names, "--input_dir is missing: a folder of HDF5 files, or a data set")
    beside = (given["vocab_file"], given["config_file"], given["init_checkpoint"])
    return sources.open_set(
        names,
        vocabulary=sources.vocabulary_beside(*beside),
        max_seq_length=draft.length(),
    )


def _put_batch(given: Given, draft: Draft) -> None:
    size, accumulation = given["train_batch_size"], given["gradient_accumulation_steps"]
    refuse_if(
        accumulation < 1 or size % accumulation != 0,
        f"--train_batch_size {size} is that of a GPU before it is divided by "
        f"--gradient_accumulation_steps {accumulation}; give a multiple",
    )
    names = ("train_batch_size", "gradient_accumulation_steps")
    draft.put_batch(size // accumulation, accumulation, names, names)


def _put_optimizer(given: Given, draft: Draft) -> None:
    """FusedLAMB: tensors without decay have trust ratio 1."""
    draft.put("optimizer.type", "Lamb")
    draft.put("optimizer.params.lr", given["learning_rate"], "learning_rate")
    rest = {"betas": [0.9, 0.999], "eps": 1e-6, "weight_decay": 0.01, "adapt_without_decay": False}
    for name, value in rest.items():
        draft.put(f"optimizer.params.{name}", value)
    draft.put("gradient_clipping", 1.0)  # max_grad_norm of FusedLAMB
    draft.put("zero_optimization.stage", 1)
    if given["fp16"]:
        draft.put("fp16.enabled", True, "fp16")
        draft.put("fp16.loss_scale", given["loss_scale"], "loss_scale")
        power = round(math.log2(given["init_loss_scale"]))
        draft.put("fp16.initial_scale_power", power, "init_loss_scale")


def _put_start(given: Given, draft: Draft) -> None:
    """Set output_dir, and where the run starts; phase 2 is a run of its own beside phase 1."""
    folder = given["output_dir"]
    start, carries = given["init_checkpoint"], False
    if start:
        sources.refuse_foreign_weights(start, "init_checkpoint")
        start = str(sources.find_checkpoint(start) or start)
    elif given["phase2"]:
        end = Path(folder) / "checkpoints" / f"step_{given['phase1_end_step']}"
        start, carries = str(end if end.is_dir() else folder), True
    if given["phase2"]:
        folder = f"{folder}_phase2"
        draft.say("phase2", f"phase 2 is a run of its own: {folder}, from {start}")
    draft.put(f"{SECTION}.output_dir", folder, "output_dir", "phase2")
    if start:
        draft.put(f"{SECTION}.init_from", start, "init_checkpoint", "phase2")
        if carries:
            draft.put(f"{SECTION}.carry_moments", True, "phase2")
    is_resumed = given["resume_from_checkpoint"] or given["resume_phase2"] or given["phase2"]
    resume = "auto" if is_resumed else "none"
    if given["resume_step"] > 0 and not given["phase2"]:
        resume = f"{folder}/checkpoints/step_{given['resume_step']}"
    draft.put(f"{SECTION}.resume", resume, "resume_from_checkpoint", "resume_step")
