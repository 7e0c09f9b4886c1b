#!/usr/bin/env bash
# tests/get_clients.sh FOLDER PYTHON: the clients that the server's tests run beside the one that is installed.
# Each in a folder of its own, since they are versions of one package.
set -euo pipefail
folder=$1 python=$2
mkdir -p "$folder"
for version in 1.33.0 2.4.0; do
    if [ ! -d "$folder/huggingface_hub-$version" ]; then
        "$python" -m pip install --quiet --disable-pip-version-check --target "$folder/partial" "huggingface_hub==$version"
        mv "$folder/partial" "$folder/huggingface_hub-$version"
    fi
done
if [ ! -d "$folder/js/node_modules/@huggingface/inference" ]; then
    npm install --silent --no-fund --no-audit --prefix "$folder/js" @huggingface/inference@4.13.30
fi
# A linter of deploy/Containerfile, which is built only where an engine and its base image can be had.
if [ ! -d "$folder/lint/node_modules/dockerfile-utils" ]; then
    npm install --silent --no-fund --no-audit --prefix "$folder/lint" dockerfile-utils@0.16.3
fi
