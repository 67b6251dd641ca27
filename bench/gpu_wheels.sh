#!/bin/sh
# Downloads the wheels that bench/gpu.py needs beside torch and transformers, for x86-64 Linux.
#   bench/gpu_wheels.sh PYTHON DIRECTORY        such as: bench/gpu_wheels.sh 3.12 wheels
set -eu
python=$1
directory=$2
fetch() {
    python3 -m pip download -q --no-deps --only-binary=:all: --implementation cp --python-version "$python" \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
        -d "$directory" "$@"
}
mkdir -p "$directory"
fetch pydantic pydantic-core pydantic-settings python-dotenv annotated-types typing-inspection greenlet
# DeepSpeed is published as source. Its operators are not built, so that the wheel fits every Python.
DS_BUILD_OPS=0 python3 -m pip wheel -q --no-deps --no-build-isolation -w "$directory" deepspeed hjson
