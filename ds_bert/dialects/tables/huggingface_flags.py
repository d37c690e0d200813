"""The flags of run_mlm.py, run_mlm_no_trainer.py and of the adaptation with next sentences.

Source: huggingface/transformers, examples/pytorch/language-modeling (4.20 to 5.23).
"""

from ds_bert.dialects.flags import answered, boolean, obeyed, refused, table, whole
from ds_bert.dialects.tables.training_arguments import TRAINING_ARGUMENTS

_HUB_ACCESS = "is about access to the hub; here: huggingface-cli login, HF_TOKEN"
_TOKENIZER = "which tokenizer code runs; here: own compiled WordPiece, of any vocab.txt"
_DONE_BEFORE = "is about preprocessing; here: ds-bert preprocess, before training"

_MODEL = (
    obeyed("model_name_or_path", str, None, "model: a Hugging Face folder or id; a run: init_from"),
    obeyed("config_name", str, None, "model: random weights of this config.json"),
    obeyed("config_overrides", str, None, "model: random weights of BERT-base with these changes"),
    obeyed("model_type", str, None, "bert: random weights of BERT-base"),
    obeyed("tokenizer_name", str, None, "vocabulary of finished instances; else the model's"),
    answered("use_fast_tokenizer", boolean, True, _TOKENIZER),
    answered("cache_dir", str, None, "where models are kept; here: HF_HOME"),
    refused("model_revision", str, "main", "takes another revision; here: download it, name it"),
    *[answered(name, str, None, _HUB_ACCESS) for name in ("use_auth_token", "token")],
    refused(
        "trust_remote_code", boolean, False, "runs code of the hub; never here, leave it out"
    ),
    answered("torch_dtype", str, None, "dtype of loading; here fp32, trained in --bf16 or --fp16",
             aliases=("dtype",)),
    answered("low_cpu_mem_usage", boolean, False, "loads without a copy; nothing to set here"),
)  # fmt: skip
_DATA = (
    obeyed("train_file", str, None, "train_data: finished instances (.json, .tfrecord, .hdf5, a "
           "data set); text: the commands to type", many=True),
    obeyed("validation_file", str, None, "validation_data, as train_file", many=True),
    obeyed("max_seq_length", whole, None, "max_seq_length; not given: that of the data"),
    obeyed("mlm_probability", float, 0.15, "masked_lm_prob, where masks are not stored"),
    obeyed("max_eval_samples", whole, None, "max_eval_sequences; not given: all",
           aliases=("max_val_samples",)),
    refused("dataset_name", str, None, "trains on text of the hub; here first: ds-bert preprocess "
            "--input_file hf:NAME:CONFIG --objective mlm, then --train_data"),
    refused("dataset_config_name", str, None, "see dataset_name"),
    refused("max_train_samples", whole, None, "takes the first rows; here: preprocess less text"),
    refused("streaming", boolean, False, "streams from the hub; here: ds-bert preprocess streams"),
    answered("validation_split_percentage", whole, 5,
             "holds rows back; here: preprocess --validation_fraction holds documents back"),
    answered("line_by_line", boolean, False, _DONE_BEFORE),
    answered("preprocessing_num_workers", whole, None, _DONE_BEFORE + " on all cores"),
    answered("overwrite_cache", boolean, False,
             "makes cached data anew; here that of changed files is made anew by itself"),
    answered("pad_to_max_length", boolean, False,
             "pads all rows to one length; here nothing is padded"),
)  # fmt: skip
_ADAPTATION = (
    obeyed("datasets_cache_dir", str, None, "where imported train_file and validation_file stay"),
    obeyed("eval_only_mlm", boolean, False, "evaluate: only_mlm"),
)  # fmt: skip
_NO_TRAINER = (
    obeyed("per_device_train_batch_size", whole, 8, "train_micro_batch_size_per_gpu"),
    obeyed("per_device_eval_batch_size", whole, 8, "eval_batch_size"),
    obeyed("learning_rate", float, 5e-5, "optimizer.params.lr"),
    obeyed("weight_decay", float, 0.0, "optimizer.params.weight_decay"),
    obeyed("num_train_epochs", float, 3.0, "max_steps, from the number of rows"),
    obeyed("max_train_steps", whole, None, "max_steps"),
    obeyed("gradient_accumulation_steps", whole, 1, "train_batch_size"),
    obeyed("lr_scheduler_type", str, "linear", "lr_scheduler_type"),
    obeyed("num_warmup_steps", whole, 0, "warmup_steps"),
    obeyed("output_dir", str, "runs/default", "output_dir"),
    obeyed("seed", whole, 42, "seed; there random if it is not given"),
    obeyed("checkpointing_steps", str, None, "save_interval: N or epoch; not given: at the end"),
    obeyed("resume_from_checkpoint", str, None, "resume; step_N is that of output_dir"),
    answered("use_slow_tokenizer", boolean, False, _TOKENIZER),
    obeyed("with_tracking", boolean, False, "report_to holds; not given: all installed"),
    *(TRAINING_ARGUMENTS[name] for name in
      ("report_to", "push_to_hub", "hub_model_id", "hub_token", "local_rank")),
)  # fmt: skip

RUN_MLM = table(*_MODEL, *_DATA, *_ADAPTATION) | TRAINING_ARGUMENTS
RUN_MLM_NO_TRAINER = table(*_MODEL, *_DATA, *_NO_TRAINER)
