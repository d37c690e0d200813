#!/usr/bin/env bash
# Tests and benchmarks that need a GPU, in one call of less than ten minutes: --help says how.
#
# Needed are the packages of benchmarks/gpu_suite/needs.py, which may be unpacked from their wheels
# into a folder on PYTHONPATH. No network. deepspeed is published as source: make its wheel with
# `pip wheel --no-deps deepspeed==0.19.8`; pydantic needs exactly the pydantic-core that its
# metadata names. triton needs a C compiler to launch kernels, nothing else does.
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_suite" "$@"
