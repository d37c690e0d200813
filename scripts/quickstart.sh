#!/usr/bin/env bash
# The whole road on a small corpus, on a fresh machine with Python 3.11 or later: environment, text,
# vocabulary, data, phase 1 (128 tokens), phase 2 (512 tokens), evaluation, Hugging Face model.
#
#   bash scripts/quickstart.sh         a look: about two minutes on two CPU cores, once it is installed
#   bash scripts/quickstart.sh full    five times as many steps: pairs of sentences are learned, too
#
# Everything it makes is in .venv/ and demo/. Started again it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-quick} in
quick) runs=demo/runs/quick steps128=700 steps512=60 log=20 ;;
full) runs=demo/runs/full steps128=3000 steps512=400 log=100 ;;
*)
    echo "error: found \"$1\", expected nothing or full: bash $0 full" >&2
    exit 2
    ;;
esac
SECONDS=0
say() { printf '\n== %d:%02d  %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }
# DeepSpeed's launcher and two processes on this machine: recipe, steps, more flags.
train() {
    deepspeed --num_accelerators 2 ds_bert/train.py --ds_config "ds_configs/demo/$1.json" \
        --output_dir "$runs/$1" --max_steps "$2" \
        --log_interval $log --eval_interval $((5 * log)) "${@:3}" 2>&1 |
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
train seq128 $steps128

say "training, phase 2: 512 tokens, from the weights of phase 1"
train seq512 $steps512 --init_from $runs/seq128

say "evaluation and export"
for length in 128 512; do
    python ds_bert/evaluate.py --checkpoint $runs/seq$length --output demo/seq$length.json >/dev/null
done
python scripts/export_hf.py --checkpoint $runs/seq512 --output_dir demo/model --overwrite

say "done"
python scripts/quickstart_summary.py --runs $runs
