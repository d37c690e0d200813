"""The flags of Hugging Face's TrainingArguments, versions 4.5 to 5.23.

Source: huggingface/transformers, training_args.py.
"""

from ds_bert.dialects.flags import Flag, answered, boolean, obeyed, refused, table, whole

_NO_PADDING = "there is no padding here: sequences run end to end"
_HUB = "uploads to the hub; here: upload the folder hf of a checkpoint, huggingface-cli upload"
_NAMED = "names a run for a tracking service; here: output_dir names it, its log is metrics.jsonl"
_TRACKERS = "report_to; tensorboard, wandb, trackio, mlflow; not given: auto"
_LEVEL = "how much is logged; here: one line each log_interval"
_TPU = "is about TPUs; here: GPUs and CPUs"
_DDP = "is about DistributedDataParallel; here DeepSpeed adds up gradients over ranks"
_FSDP = "shards the model by FSDP; here: ZeRO 1 shards the optimizer, numbers are the same"
_LOADER = "is about loader processes; here a thread works two steps ahead on a memory map"
_SUMS = "is about how results are gathered; here they are sums on the device, nothing is kept"
_BEST = "loads the best checkpoint at the end; here: all losses stand in metrics.jsonl, choose one"
_COMPILER = "is about torch.compile; here: compile_layers has one way"
_MEMORY = "saves memory, computing activations twice; here: --train_micro_batch_size auto fits it"
_HALF = "chooses a library for fp16; here DeepSpeed does it"
_DEBUG = "is for debugging; here: DS_BERT_DEBUG=1, and ds-bert replay after a divergence"
_TOKENS = "counts tokens; here sequences per second are logged"
_KERNEL = "takes Liger's kernels; here: own kernels on a GPU, chosen at the start"
_OWN_LOOP = "is about the inside of Trainer; nothing here corresponds"
_EVAL_DTYPE = "is the dtype of an evaluation; here it is that of the weights"
_TF32 = "lets fp32 products round to TF32; here: torch's default, off; or --bf16"


def _answered(text: str, kind, default, *names: str) -> list[Flag]:
    return [answered(name, kind, default, text) for name in names]


def _obeyed() -> list[Flag]:
    return [
        obeyed("output_dir", str, "runs/default", "output_dir"),
        obeyed("do_train", boolean, None, "false with do_eval true: evaluates instead of training"),
        obeyed("do_eval", boolean, None, "validates at the end, with an eval_strategy also before"),
        obeyed("per_device_train_batch_size", whole, 8, "train_micro_batch_size_per_gpu"),
        obeyed("per_device_eval_batch_size", whole, 8, "eval_batch_size"),
        obeyed(
            "gradient_accumulation_steps",
            whole,
            1,
            "train_batch_size = this x per_device_train_batch_size x ranks",
        ),
        obeyed("learning_rate", float, 5e-5, "optimizer.params.lr"),
        obeyed("weight_decay", float, 0.0, "optimizer.params.weight_decay"),
        obeyed("adam_beta1", float, 0.9, "optimizer.params.betas"),
        obeyed("adam_beta2", float, 0.999, "optimizer.params.betas"),
        obeyed("adam_epsilon", float, 1e-8, "optimizer.params.eps"),
        obeyed("max_grad_norm", float, 1.0, "gradient_clipping"),
        obeyed("num_train_epochs", float, 3.0, "max_steps, from the number of rows"),
        obeyed("max_steps", whole, -1, "max_steps; above 0 it wins over epochs"),
        obeyed(
            "lr_scheduler_type",
            str,
            "linear",
            "linear, cosine, constant, constant_with_warmup, polynomial (as linear)",
        ),
        obeyed("warmup_steps", float, 0.0, "warmup_steps; below 1: a share of all"),
        obeyed("warmup_ratio", float, 0.0, "warmup_steps = share x max_steps, rounded up"),
        obeyed("logging_steps", float, 500.0, "log_interval; below 1: a share of all steps"),
        obeyed("logging_strategy", str, "steps", "log_interval: steps, epoch; no: at the end"),
        obeyed(
            "eval_strategy",
            str,
            "no",
            "eval_interval: steps, epoch; no: at the end, with do_eval",
            aliases=("evaluation_strategy",),
        ),
        obeyed("eval_steps", float, None, "eval_interval; not given: logging_steps"),
        obeyed("save_strategy", str, "steps", "save_interval: steps, epoch; no: at the end"),
        obeyed("save_steps", float, 500.0, "save_interval; below 1: a share of all steps"),
        obeyed(
            "save_total_limit", whole, None, "keep_checkpoints, at least 2; not given: all stay"
        ),
        obeyed("seed", whole, 42, "seed"),
        obeyed("data_seed", whole, None, "seed, if seed is not given"),
        obeyed("bf16", boolean, False, "bf16"),
        obeyed("fp16", boolean, False, "fp16, dynamic loss scale"),
        obeyed("torch_compile", boolean, None, "compile_layers: on, off"),
        obeyed("deepspeed", str, None, 'the file that the flags complete; "auto" is filled in'),
        obeyed("resume_from_checkpoint", str, None, "resume; checkpoint-N is step_N of output_dir"),
        obeyed(
            "optim",
            str,
            "adamw_torch",
            "optimizer: AdamW for adamw_torch, adamw_torch_fused, adamw_hf, adamw_apex_fused",
        ),
        obeyed("local_rank", whole, -1, "set by the launcher", aliases=("local-rank",)),
        obeyed("use_cpu", boolean, False, "trains on the CPU", aliases=("no_cuda",)),
        obeyed("dataloader_drop_last", boolean, False, "rounds the steps of an epoch down"),
        obeyed("overwrite_output_dir", boolean, False, "resume none: refused if there is a run"),
        obeyed(
            "per_gpu_train_batch_size", whole, None, "train_micro_batch_size_per_gpu (old name)"
        ),
        obeyed("per_gpu_eval_batch_size", whole, None, "eval_batch_size (old name)"),
    ]


def _refused() -> list[Flag]:
    return [
        refused(
            "adafactor", boolean, False, "trains with Adafactor; here: AdamW, or Lamb in a recipe"
        ),
        refused(
            "label_smoothing_factor",
            float,
            0.0,
            "smooths labels; BERT's losses here are plain cross-entropies, leave it out",
        ),
        refused(
            "neftune_noise_alpha", float, None, "adds noise to embeddings; not here, leave it out"
        ),
        refused(
            "optim_target_modules", str, None, "trains by GaLore or APOLLO; not here", many=True
        ),
        refused("do_predict", boolean, False, "predicts; here: transformers on the folder hf"),
        refused("optim_args", str, None, "more options of optimizers; here: optimizer.params"),
        refused("split_batches", boolean, None, "counts batches over all ranks; here: not"),
        refused("lr_scheduler_kwargs", str, None, "shapes the schedule; docs/training.md has all"),
        refused(
            "parallelism_config", str, None, "splits the model over devices; here: ZeRO 1 only"
        ),
        refused("mp_parameters", str, "", "is SageMaker's model parallelism; here: ZeRO 1 only"),
        refused("tp_size", whole, 0, "splits tensors over devices; here: ZeRO 1", harmless=(1,)),
        refused("use_mps_device", boolean, False, "trains on Apple's GPUs; here: CUDA and CPU"),
        refused("past_index", whole, -1, "is for models with a memory; BERT has none"),
    ]


def _of_training() -> list[Flag]:
    return [
        answered(
            "logging_first_step",
            boolean,
            False,
            "logs step 1 as well; here a row is the mean since the last one, --log_interval 1: all",
        ),
        answered(
            "logging_dir", str, None, "where TensorBoard looks; here: output_dir/metrics.jsonl"
        ),
        answered(
            "auto_find_batch_size",
            boolean,
            False,
            "halves a batch that needs too much memory; here: --train_micro_batch_size auto",
        ),
        answered(
            "average_tokens_across_devices",
            boolean,
            True,
            "divides by the tokens of all ranks; here always",
        ),
        answered(
            "group_by_length",
            boolean,
            False,
            f"batches sequences of like length; {_NO_PADDING}; --packed true evens out ranks",
        ),
        answered(
            "train_sampling_strategy",
            str,
            "random",
            f"how rows are ordered; here at random in each epoch; {_NO_PADDING}",
        ),
        answered("length_column_name", str, "length", f"column of lengths; {_NO_PADDING}"),
        answered(
            "remove_unused_columns",
            boolean,
            True,
            "drops columns that a model does not take; here what an instance needs is stored",
        ),
        answered(
            "label_names", str, None, "names the labels; here the objective knows them", many=True
        ),
        answered(
            "ignore_data_skip",
            boolean,
            False,
            "starts the epoch anew; here going on finds its row at once, in every case",
        ),
        answered(
            "full_determinism",
            boolean,
            False,
            "asks for equal bits; here on a CPU always (docs/numerics.md)",
        ),
        answered(
            "save_safetensors", boolean, True, "writes safetensors; here always, in the folder hf"
        ),
        answered(
            "save_only_model",
            boolean,
            False,
            "leaves the optimizer's state out; here checkpoints are whole, hf/ is the model alone",
        ),
        answered(
            "save_on_each_node", boolean, False, "saves on each machine; here all see one folder"
        ),
        answered(
            "eval_on_start",
            boolean,
            False,
            "validates before step 1; here: ds-bert evaluate on the model",
        ),
        answered("eval_delay", float, 0.0, "validates later; here from the first eval_interval on"),
        answered(
            "logging_nan_inf_filter",
            boolean,
            True,
            "hides losses that are no number; here such a step ends the run, exit 5",
        ),
        answered("ddp_backend", str, None, "how ranks talk; here NCCL on GPUs, gloo on CPUs"),
        answered("ddp_timeout", whole, 1800, "how long ranks wait; here: --watchdog_seconds"),
    ]


TRAINING_ARGUMENTS = table(
    *_obeyed(),
    *_refused(),
    *_of_training(),
    *_answered(_MEMORY, boolean, None, "gradient_checkpointing", "activation_checkpointing"),
    *_answered(
        _MEMORY, str, None, "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"
    ),
    *_answered(_TF32, boolean, None, "tf32"),
    *_answered(_EVAL_DTYPE, boolean, False, "bf16_full_eval", "fp16_full_eval"),
    *_answered(_HALF, str, None, "fp16_backend", "fp16_opt_level", "half_precision_backend"),
    *_answered(_COMPILER, str, None, "torch_compile_backend", "torch_compile_mode", "torchdynamo"),
    *_answered(_KERNEL, boolean, False, "use_liger_kernel"),
    *_answered(_KERNEL, str, None, "liger_kernel_config"),
    *_answered(_LEVEL, str, None, "log_level", "log_level_replica"),
    *_answered(_LEVEL, boolean, None, "log_on_each_node", "disable_tqdm"),
    obeyed("report_to", str, None, _TRACKERS, many=True),
    *_answered(_NAMED, str, None, "run_name", "project", "trackio_space_id"),
    *_answered(_NAMED, str, None, "trackio_bucket_id", "trackio_static_space_id"),
    *_answered(_SUMS, whole, None, "eval_accumulation_steps"),
    *_answered(_SUMS, boolean, None, "prediction_loss_only", "eval_do_concat_batches"),
    *_answered(_SUMS, boolean, None, "eval_use_gather_object", "batch_eval_metrics"),
    *_answered(_SUMS, boolean, None, "include_inputs_for_metrics", "use_legacy_prediction_loop"),
    answered("include_for_metrics", str, None, _SUMS, many=True),
    *_answered(_TOKENS, str, None, "include_num_input_tokens_seen"),
    *_answered(_TOKENS, boolean, None, "include_tokens_per_second"),
    *_answered(_BEST, boolean, False, "load_best_model_at_end", "greater_is_better"),
    *_answered(_BEST, str, None, "metric_for_best_model"),
    *_answered(_HUB, boolean, False, "push_to_hub", "hub_private_repo", "hub_always_push"),
    *_answered(_HUB, str, None, "hub_model_id", "hub_strategy", "hub_token", "hub_revision"),
    *_answered(_HUB, str, None, "push_to_hub_model_id", "push_to_hub_organization"),
    *_answered(_HUB, str, None, "push_to_hub_token"),
    *_answered(_LOADER, whole, 0, "dataloader_num_workers", "dataloader_prefetch_factor"),
    *_answered(_LOADER, boolean, None, "dataloader_pin_memory", "dataloader_persistent_workers"),
    *_answered(_LOADER, boolean, None, "dataloader_in_order", "dispatch_batches"),
    *_answered(_LOADER, str, None, "dataloader_multiprocessing_context"),
    *_answered(_DDP, boolean, None, "ddp_find_unused_parameters", "ddp_broadcast_buffers"),
    *_answered(_DDP, boolean, None, "ddp_static_graph"),
    *_answered(_DDP, whole, None, "ddp_bucket_cap_mb"),
    *[answered(name, str, None, _FSDP, many=True) for name in ("fsdp", "sharded_ddp")],
    *_answered(_FSDP, str, None, "fsdp_config", "fsdp_transformer_layer_cls_to_wrap"),
    *_answered(_FSDP, whole, 0, "fsdp_min_num_params"),
    *_answered(_TPU, whole, None, "tpu_num_cores"),
    *_answered(_TPU, boolean, False, "tpu_metrics_debug"),
    *_answered(_DEBUG, str, "", "debug"),
    *_answered(_DEBUG, boolean, True, "skip_memory_metrics"),
    *_answered(_OWN_LOOP, str, None, "accelerator_config", "ray_scope", "xpu_backend"),
    *_answered(_OWN_LOOP, boolean, False, "use_cache", "use_ipex", "jit_mode_eval"),
    *_answered(_OWN_LOOP, boolean, False, "restore_callback_states_from_checkpoint"),
    *_answered(_OWN_LOOP, boolean, False, "enable_jit_checkpoint", "evaluate_during_training"),
    *_answered(_OWN_LOOP, whole, None, "torch_empty_cache_steps"),
)
