#!/usr/bin/env bash
# Fetch what test_portability runs other CPUs with into the folder $1, from this system's own Debian packages and with
# pip, installing nothing: qemu-user, and a root of arm64 with Python and the runtime's packages. $2 is a Python of the
# version that Debian has. Anything missing is said; the tests that need it then skip and say so.
set -euo pipefail
target=$(mkdir -p "$1" && cd "$1" && pwd)
python=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
here=$(cd "$(dirname "$0")/../.." && pwd)
# 1.31 ends with signal 11 when it is imported under qemu 7.2.
onnxruntime=1.27.0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

mkdir -p lists/partial cache/archives/partial
apt() {
    apt-get -qq -o Dir::State="$scratch" -o Dir::State::lists="$scratch/lists" -o Dir::Cache="$scratch/cache" \
        -o APT::Sandbox::User=root -o Debug::NoLocking=1 "$@"
}

if [ ! -x "$target/bin/qemu-x86_64" ]; then
    apt update
    apt download qemu-user-static
    dpkg -x qemu-user-static_*.deb qemu
    mkdir -p "$target/bin"
    for cpu in x86_64 aarch64; do mv "qemu/usr/bin/qemu-$cpu-static" "$target/bin/qemu-$cpu"; done
fi

if [ ! -e "$target/arm64/.whole" ]; then
    arm() { apt -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::status=/dev/null "$@"; }
    touch status
    arm update
    arm -y --download-only --no-install-recommends install python3-minimal libpython3-stdlib libstdc++6
    rm -rf "$target/arm64"
    mkdir -p "$target/arm64"
    for package in cache/archives/*.deb; do dpkg -x "$package" "$target/arm64"; done
    # Newer Debians have these as links into usr.
    for folder in lib bin; do
        [ -e "$target/arm64/$folder" ] || ln -s "usr/$folder" "$target/arm64/$folder"
    done
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [ -x "$target/arm64/usr/bin/python$version" ] || { echo "Debian has no python$version for arm64"; exit 1; }
    grep -v '^onnxruntime==' "$here/constraints.txt" > constraints.txt
    "$python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --python-version "$version" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 -c "$scratch/constraints.txt" --target "$target/arm64/packages" \
        numpy "onnxruntime==$onnxruntime" tokenizers click
    touch "$target/arm64/.whole"
fi
