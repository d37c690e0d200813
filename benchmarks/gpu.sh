#!/usr/bin/env bash
# Tests and benchmarks that need a GPU, in one call of less than 8 minutes.
#
#     benchmarks/gpu.sh [NAME ...]          all of benchmarks/gpu, or those named
#
# Needed are torch, triton, numpy, transformers and pytest; ds_bert is found in this tree. Further
# packages, which may be unpacked from their wheels into a folder on PYTHONPATH:
#     numba, llvmlite     without them attention, encoder and steps say so and "could not run"
#     deepspeed, xxhash   without them steps runs ds_bert's model and LAMB on an engine of its own
#                         and says so in the field "engine" of each row (PlainEngine, engines.py);
#                         DeepSpeed itself needs hjson, pydantic, msgpack, psutil, py-cpuinfo, einops
# Results and the log go to benchmarks/results, or to the folder that OUT names; there, without
# charts. PYTHON names the interpreter, COMMIT the commit where the tree is a copy without git.
# Exit code: 0 if all ran and all checks passed, else 1.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
draw=${OUT:+no}
export OUT=${OUT:-$PWD/benchmarks/results} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export TRITON_INTERPRET=0 DS_ACCELERATOR=cuda # tests/conftest.py would choose the CPU
deadline=460 each=240                         # seconds
mkdir -p "$OUT"

packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
ln -s "$PWD/kernels" "$packages/ds_bert_kernels"
ln -s "$PWD/ds_bert" "$packages/ds_bert"
export PYTHONPATH=$packages${PYTHONPATH:+:$PYTHONPATH}

summary=() failed=0
step() { # NAME COMMAND...: run it within the time that is left
    local name=$1 begin=$SECONDS limit=$((deadline - SECONDS)) code=0 verdict=ok
    shift
    echo "=== $name"
    if ((limit < 5)); then
        code=124
    else
        timeout --kill-after=5 $((limit < each ? limit : each)) "$@" || code=$?
    fi
    case $code in
    0) ;;
    2) verdict="could not run" ;;
    124 | 137) verdict="out of time" ;;
    *) verdict=FAILED ;;
    esac
    ((code == 0)) || failed=1
    summary+=("$(printf '%-14s %-14s %4d s' "$name" "$verdict" $((SECONDS - begin)))")
}

everything() {
    local script tests
    if (($#)); then
        set -- "${@/#/benchmarks/gpu/}"
        set -- "${@/%/.py}"
    else
        # Only these files: others may need packages that are not there.
        mapfile -t tests < <(grep -l 'mark\.gpu' tests/*/test_*.py)
        if ((${#tests[@]})); then
            # -P keeps the folder kernels from being found as the package kernels.
            step tests "$python" -P -m pytest -q -m gpu -p no:cacheprovider "${tests[@]}"
        fi
        # Whole steps first: what comes last may run out of time.
        set -- benchmarks/gpu/{steps,head,lamb,attention,encoder}.py
        for script in benchmarks/gpu/*.py; do
            [[ " $* " == *" $script "* ]] || set -- "$@" "$script"
        done
    fi
    for script; do
        step "gpu_$(basename "$script" .py)" "$python" "$script"
    done
    echo "=== summary"
    printf '%s\n' "${summary[@]}"
    return $failed
}

everything "$@" 2>&1 | tee "$OUT/gpu.log"
code=${PIPESTATUS[0]}
[[ $draw ]] || "$python" benchmarks/plot.py
exit "$code"
