#!/usr/bin/env bash
# The whole road on a small corpus, on a fresh machine with Python 3.11 or later: environment, text,
# vocabulary, data, phase 1 (128 tokens), phase 2 (512 tokens), evaluation, Hugging Face model.
# Under 10 minutes on two CPU cores; everything it makes is in .venv/ and demo/. Started again it
# goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
SECONDS=0
say() { printf '\n== %d:%02d  %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }
# DeepSpeed's launcher and two processes on this machine.
train() {
    deepspeed --num_accelerators 2 ds_bert/train.py --ds_config "$1" 2>&1 |
        grep --line-buffered -vE '\[(INFO|WARNING)\]' # of the launcher
}

say "installing"
bash scripts/install.sh
. .venv/bin/activate
# Two processes share the cores of this machine, whatever accelerator it has.
export DS_ACCELERATOR=cpu CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

say "text: the documentation inside Python and its packages"
[ -f demo/corpus.txt ] || python scripts/make_demo_corpus.py --output_file demo/corpus.txt

say "vocabulary"
[ -f demo/vocab.txt ] ||
    python scripts/create_vocab.py --input_file demo/corpus.txt --vocab_size 4096 --vocab_file demo/vocab.txt

say "data: 128 and 512 tokens from one tokenization, 5 % of the documents held out"
python scripts/preprocess.py --input_file demo/corpus.txt --vocab_file demo/vocab.txt \
    --output_dir demo/data/train --validation_fraction 0.05

say "training, phase 1: 128 tokens"
train ds_configs/demo/seq128.json

say "training, phase 2: 512 tokens, from the weights of phase 1"
train ds_configs/demo/seq512.json

say "evaluation and export"
for length in 128 512; do
    python ds_bert/evaluate.py --checkpoint demo/runs/seq$length --format table --output demo/seq$length.json
done
python scripts/export_hf.py --checkpoint demo/runs/seq512 --output_dir demo/model --overwrite

say "done"
python scripts/quickstart_summary.py
