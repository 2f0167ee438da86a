#!/usr/bin/env bash
# The arm64 half of the image, for QEMU: Debian's Python 3.13 and the locked packages, stripped.
# It has no /sys, as the functions of Lambda have none. The argument is its folder; run again, it
# only installs the packages again. Neither binfmt_misc nor a container is needed. It ends with 75
# where Debian's archive or root is missing.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
system=$1
python=${PYTHON:-$root/.venv/bin/python}

if [ ! -x "$system/usr/bin/qemu-aarch64-static" ]; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 75
    if ! { command -v qemu-aarch64-static && command -v debootstrap; } >/dev/null; then
        apt-get update -qq || exit 75
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq qemu-user-static debootstrap || exit 75
    fi
    rm -rf "$system"
    debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 trixie "$system" || exit 75
    # what its second stage would do, without its scripts
    for package in "$system"/var/cache/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$system"
    done
    cp "$(command -v qemu-aarch64-static)" "$system/usr/bin"
fi

rm -rf "$system/var/task"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary=:all: --implementation cp --python-version 3.13 --abi cp313 --abi abi3 --abi none \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    --target "$system/var/task" -r "$root/requirements/function.txt"
"$python" "$root/infra/strip_packages.py" "$system/var/task"
cp -r "$root/handler" "$system/var/task"
