"""Every flag of record is known, with one status and a word for its users."""

import dataclasses

import pytest

from ds_bert.dialects.command_line import find
from ds_bert.dialects.flags import ANSWERED, OBEYED, REFUSED
from ds_bert.dialects.systems import SCRIPTS
from ds_bert.dialects.tables.bing_bert import CONFIG_KEYS

# As the argument parsers of the scripts have them.
FLAGS = {
    ("google", "create_pretraining_data.py"): """input_file output_file vocab_file do_lower_case
        do_whole_word_mask max_seq_length max_predictions_per_seq random_seed dupe_factor
        masked_lm_prob short_seq_prob""",
    ("google", "run_pretraining.py"): """bert_config_file input_file output_dir init_checkpoint
        max_seq_length max_predictions_per_seq do_train do_eval train_batch_size eval_batch_size
        learning_rate num_train_steps num_warmup_steps save_checkpoints_steps iterations_per_loop
        max_eval_steps use_tpu tpu_name tpu_zone gcp_project master num_tpu_cores""",
    ("nvidia", "create_pretraining_data.py"): """vocab_file input_file output_file bert_model
        max_seq_length dupe_factor max_predictions_per_seq masked_lm_prob short_seq_prob
        do_lower_case random_seed""",
    ("nvidia", "run_pretraining.py"): """input_dir config_file output_dir vocab_file init_checkpoint
        max_seq_length max_predictions_per_seq train_batch_size learning_rate num_train_epochs
        max_steps warmup_proportion local_rank seed gradient_accumulation_steps fp16 amp loss_scale
        log_freq checkpoint_activations resume_from_checkpoint resume_step num_steps_per_checkpoint
        skip_checkpoint phase2 resume_phase2 allreduce_post_accumulation
        allreduce_post_accumulation_fp16 phase1_end_step init_loss_scale do_train json-summary
        use_env disable_progress_bar steps_this_run profile profile-start num_workers
        no_dense_sequence_output disable_jit_fusions cuda_graphs""",
    ("huggingface", "run_mlm.py"): """model_name_or_path model_type config_overrides config_name
        tokenizer_name cache_dir use_fast_tokenizer model_revision use_auth_token token
        trust_remote_code torch_dtype dtype low_cpu_mem_usage dataset_name dataset_config_name
        train_file validation_file overwrite_cache validation_split_percentage max_seq_length
        preprocessing_num_workers mlm_probability line_by_line pad_to_max_length max_train_samples
        max_eval_samples max_val_samples streaming datasets_cache_dir eval_only_mlm
        evaluation_strategy warmup_ratio logging_dir overwrite_output_dir no_cuda use_mps_device
        adafactor sharded_ddp fsdp_min_num_params group_by_length save_safetensors torchdynamo
        per_gpu_train_batch_size fp16_backend half_precision_backend push_to_hub_token ray_scope
        tpu_num_cores past_index include_tokens_per_second dispatch_batches split_batches""",
    ("huggingface", "run_mlm_no_trainer.py"): """dataset_name dataset_config_name train_file
        validation_file validation_split_percentage pad_to_max_length model_name_or_path config_name
        tokenizer_name use_slow_tokenizer per_device_train_batch_size per_device_eval_batch_size
        learning_rate weight_decay num_train_epochs max_train_steps gradient_accumulation_steps
        lr_scheduler_type num_warmup_steps output_dir seed model_type max_seq_length line_by_line
        preprocessing_num_workers overwrite_cache mlm_probability push_to_hub hub_model_id hub_token
        checkpointing_steps resume_from_checkpoint with_tracking report_to low_cpu_mem_usage
        trust_remote_code""",
    ("bing_bert", "deepspeed_train.py"): """config-file cf output_dir max_seq_length
        max_predictions_per_seq max_pred seed do_lower_case local_rank use_pretrain
        refresh_bucket_size finetune lr_schedule lr_offset load_training_checkpoint load_cp
        load_checkpoint_id load_cp_id job_name rewarmup max_steps max_steps_per_epoch print_steps
        data_path_prefix validation_data_path_prefix deepspeed_transformer_kernel stochastic_mode
        ckpt_to_save attention_dropout_checkpoint normalize_invertible gelu_checkpoint
        deepspeed_sparse_attention use_nvidia_dataset progressive_layer_drop deepspeed
        deepspeed_config""",
}
DEFAULTS = """learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm max_steps
    num_train_epochs lr_scheduler_type warmup_steps per_device_train_batch_size logging_steps
    gradient_accumulation_steps save_steps save_total_limit seed bf16 fp16"""
TABLES = {(script.system, script.name): script.flags for script in SCRIPTS}


@pytest.mark.parametrize("script", FLAGS, ids="-".join)
def test_every_flag_of_the_script_is_known(script):
    names = [name.replace("-", "_") for name in FLAGS[script].split()]
    assert [name for name in names if find(name, TABLES[script]) is None] == []


def test_every_script_is_listed():
    assert set(FLAGS) == set(TABLES)


def test_every_field_of_the_installed_training_arguments_is_known():
    from transformers import TrainingArguments

    names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    assert names - set(TABLES["huggingface", "run_mlm.py"]) == set()


def test_defaults_are_those_of_the_installed_training_arguments():
    from transformers import TrainingArguments

    flags = TABLES["huggingface", "run_mlm.py"]
    names = [
        "learning_rate",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "num_train_epochs",
        "max_steps",
        "lr_scheduler_type",
        "warmup_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "logging_steps",
        "save_steps",
        "save_total_limit",
        "seed",
        "bf16",
        "fp16",
    ]
    theirs = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    assert {name: flags[name].default for name in names} == {name: theirs[name] for name in names}


def test_every_key_of_bing_berts_configuration_is_known():
    training = "num_epochs warmup_proportion learning_rate num_workers async_worker decay_rate "
    training += "decay_step total_training_steps"
    names = [f"mixed_seq_training.LENGTH.{name}" for name in training.split()]
    names += ["name", "bert_token_file", "bert_model_file", "bert_model_config", "data.flags"]
    names += ["data.mixed_seq_datasets.LENGTH.pretrain_dataset", "validation.path"]
    assert set(names) <= set(CONFIG_KEYS)


@pytest.mark.parametrize("script", TABLES, ids="-".join)
def test_each_flag_has_a_status_and_a_line(script):
    for flag in TABLES[script].values():
        assert flag.status in (OBEYED, ANSWERED, REFUSED)
        assert flag.text and "\n" not in flag.text
