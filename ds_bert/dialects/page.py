"""docs/coming-from.md, made of the tables of flags.

python -m ds_bert.dialects.page > docs/coming-from.md
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from ds_bert.dialects.flags import ANSWERED, OBEYED, REFUSED, Flag
from ds_bert.dialects.systems import SCRIPTS, SYSTEMS
from ds_bert.dialects.tables.bing_bert import CONFIG_KEYS

_STATES = (OBEYED, ANSWERED, REFUSED)
_START = """\
# Coming from other programs

Made of the code by `python -m ds_bert.dialects.page > docs/coming-from.md`; a test compares them.

Type the command that you have, with our command in place of the script:

| script | here |
|---|---|
| create_pretraining_data.py | `ds-bert preprocess`, or preprocess.py |
| run_pretraining.py, run_mlm.py, deepspeed_train.py | `ds_bert/train.py` under `python`, \
`deepspeed` or `python -m torch.distributed.run`; or `ds-bert train` |
| the same, to evaluate (do_train false, do_eval true) | `ds_bert/train.py` or \
`ds_bert/evaluate.py` |

The system is recognised by its flags. Where several have them, `--coming_from` names it (`google`,
`nvidia`, `huggingface`, `bing_bert`). Each flag is

* **obeyed**: it does what it does there; where it is not given, that system's default holds;
* **answered**: it changes nothing about what is trained, and one line says why;
* **refused** (exit 2): what it asks for cannot be had. At its default it passes.

None is ignored without a word: the lines go to stderr, on rank 0. Our own flags may stand beside
theirs, and win. No recipe is needed. What the flags become is a recipe: it stands in the run's
config.json, and `--save_recipe FILE` writes it for `--ds_config FILE`. With `--ds_config FILE`
(Hugging Face: `--deepspeed FILE`) the flags complete that file: those given win, the system's
defaults fill in what it leaves open or calls `"auto"`.

Switches take `--x`, `--x=True`, `--x=1`, `--x false`, `--no_x`, `--no-x`, in our own commands too.
"""
_NOTES = {
    "google": """\
    python ds_bert/train.py --input_file='tf_examples.tfrecord*' --output_dir=runs/google \\
      --bert_config_file=uncased/bert_config.json --do_train=True --train_batch_size=32 \\
      --max_seq_length=128 --max_predictions_per_seq=20 --num_train_steps=20 \\
      --num_warmup_steps=10 --learning_rate=2e-5

* Adam without bias correction and with decoupled decay, `google` schedule, clipping at 1, fp32, as
  there. The batch is that of all ranks together: more ranks train the same.
* TFRecords are imported once, with their masks ([bridges.md](bridges.md)). The vocabulary is the
  vocab.txt beside bert_config_file, or `--vocab_file`.
* init_checkpoint is a Hugging Face folder or a run; `ds-bert convert-model` makes one of a
  TensorFlow checkpoint ([models.md](models.md)).
* Preprocessing here has Google's flags as its own. An output_file that ends in .tfrecord, .json or
  .hdf5 holds the instances that Google's script draws, bit for bit. For a data set that is
  `--coming_from google`; else masks are drawn later, which is faster.
* do_eval reads input_file, as there; give `--validation_data` for held-out text. `eval_results.txt`
  has the same keys.""",
    "nvidia": """\
    python -m torch.distributed.run --nproc_per_node=8 ds_bert/train.py --input_dir=hdf5/128 \\
      --config_file=bert_config.json --vocab_file=vocab.txt --output_dir=runs/nvidia --do_train \\
      --fp16 --train_batch_size=8192 --gradient_accumulation_steps=128 --learning_rate=6e-3 \\
      --warmup_proportion=0.2843 --max_steps=7038 --max_seq_length=128 --max_predictions_per_seq=20

* LAMB as FusedLAMB of apex (trust ratio 1 for tensors without decay), `poly` schedule, clipping at
  1, fp32 unless `--fp16` or `--amp`. LAMB is exact under ZeRO.
* `--train_batch_size` is that of a GPU before it is divided by `--gradient_accumulation_steps`.
* Phase 2 (`--phase2`) is a run of its own in NAME_phase2. It starts from weights and moments
  of NAME, with steps and schedule from 0.
* Without `--resume_from_checkpoint` a folder that has a run is refused, as there. With it a run
  goes on inside its epoch. The vocabulary is not padded to a multiple of 8.""",
    "huggingface": """\
    deepspeed ds_bert/train.py --model_name_or_path=bert-base-uncased --do_train=True \\
      --do_eval=True --train_file data/train_128.json --validation_file=data/dev_128.json \\
      --evaluation_strategy=steps --eval_steps=5000 --per_device_train_batch_size=96 \\
      --gradient_accumulation_steps=2 --warmup_steps=900 --max_steps=90000 \\
      --output_dir=runs/checkpoints_128
    python ds_bert/evaluate.py --model_name_or_path=runs/checkpoints_128/checkpoint-90000 \\
      --validation_file=data/dev_128.json --do_eval=True --eval_only_mlm=True --output_dir=temp

* The defaults of TrainingArguments: AdamW (eps 1e-8, no decay), rate 5e-5, `linear` without
  warm-up, clipping at 1, seed 42, fp32 unless `--bf16` or `--fp16`; no checkpoint is removed.
* train_batch_size = per_device_train_batch_size x gradient_accumulation_steps x ranks.
* train_file is a file of finished instances, as the adaptation with next sentences makes them, or a
  data set of ds-bert preprocess. For text the two commands are shown that make one.
* Perplexity is that of fixed masks over all tokens, not a mean of batches: runs can be compared.
  checkpoint-N is `checkpoints/step_N`; its folder `hf` is the model.
* run_mlm_no_trainer.py: no clipping, a checkpoint at the end unless `--checkpointing_steps`.""",
    "bing_bert": """\
    deepspeed ds_bert/train.py --cf bert_large_lamb.json --max_seq_length 128 --output_dir runs \\
      --deepspeed --deepspeed_config deepspeed_bsz64k_lamb_config_seq128.json --lr_schedule EE \\
      --lr_offset 10e-4 --job_name lamb_64k_seq128 --data_path_prefix data/bert --print_steps 100

* The DeepSpeed file has batch and optimizer; the other one model, data, rate and schedule.
* The pooler is trained, which bing_bert leaves out of its optimizer.
* total_training_steps ends the run; there are no epochs of shards.""",
}


def page() -> str:
    """The page, in Markdown."""
    return "\n".join([*_START.splitlines(), "", *_counts(), *_systems()]) + "\n"


def counts(flags: Mapping[str, Flag]) -> Counter[str]:
    """How many flags of a table are obeyed, answered, refused; an alias is the same flag."""
    return Counter(flag.status for name, flag in flags.items() if name == flag.name)


def _counts() -> Iterator[str]:
    yield "| script | flags | obeyed | answered | refused | ignored |"
    yield "|---|---:|---:|---:|---:|---:|"
    for title, flags in _tables():
        found = counts(flags)
        numbers = " | ".join(str(found[state]) for state in _STATES)
        yield f"| {title} | {found.total()} | {numbers} | 0 |"


def _tables() -> Iterator[tuple[str, Mapping[str, Flag]]]:
    for script in SCRIPTS:
        yield script.title, script.flags
        if script.system == "bing_bert":
            yield f"{SYSTEMS[script.system]}, the file of --cf", CONFIG_KEYS


def _systems() -> Iterator[str]:
    for system, title in SYSTEMS.items():
        yield f"\n## {title}\n"
        yield _NOTES[system]
        for script in SCRIPTS:
            if script.system == system:
                yield f"\n### {script.name}\n"
                yield from _rows(script.flags, "--")
        if system == "bing_bert":
            yield "\n### Keys of the file of --cf\n"
            yield from _rows(CONFIG_KEYS, "")


def _rows(flags: Mapping[str, Flag], dashes: str) -> Iterator[str]:
    yield "| flag | | here |"
    yield "|---|---|---|"
    for name, flag in flags.items():
        if name == flag.name:
            names = ", ".join(f"`{dashes}{other}`" for other in (name, *flag.aliases))
            yield f"| {names} | {flag.status} | {flag.text.replace('|', '/')} |"


if __name__ == "__main__":
    print(page(), end="")
