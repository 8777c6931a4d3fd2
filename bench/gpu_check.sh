#!/usr/bin/env bash
# Do the engines for GPUs work on this machine? At most eight minutes on one card of 80 GB; nothing is fetched.
#
#   bench/gpu_check.sh                      with Quern set up (make setup), and environments that `quern engines` lists
#   bench/gpu_check.sh --tiny               the same with a tiny network, for a machine without a GPU
#   bench/gpu_check.sh pack DIR [3.12]      fetch what Quern needs, but PyTorch, as wheels for that version of Python
#   bench/gpu_check.sh --wheels DIR         with those wheels, where nothing can be fetched: `python3` (or $PYTHON) has to
#                                           have PyTorch, NumPy and what Transformers needs; vLLM is tried if it is there
#
# Other options go to bench/gpu_check.py, which says what is checked: --layers, --engines, --transformers, --vllm,
# --seconds, --folder. Exits with 0 where all checks passed.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
ENVIRONMENT=build/gpu-check-environment

# The packages that Quern and its Transformers child import, without the model runtimes that neither of them needs here.
pack() {
    local to=$1 version=${2:-3.12} platforms=() number
    for number in 17 24 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${number}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform linux_x86_64)
    local pip=(.venv/bin/python -m pip download --quiet --only-binary=:all: --dest "$to"
        --implementation cp --python-version "$version" "${platforms[@]}")
    mkdir -p "$to"
    .venv/bin/python - >"$to/requirements.txt" 2>"$to/constraints.txt" <<'PYTHON'
import re, sys, tomllib
from pathlib import Path
wanted = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
print(*(name for name in wanted if not name.startswith(("xllamacpp", "pip"))), sep="\n")
print(*re.findall(r"^([a-z0-9_.\-]+==\S+)", Path("requirements.lock").read_text(), re.MULTILINE), sep="\n", file=sys.stderr)
PYTHON
    "${pip[@]}" --requirement "$to/requirements.txt" --constraint "$to/constraints.txt"
    # Their own needs come with PyTorch.
    .venv/bin/python -c 'from quern.engine.environments.catalog import find
print(*(one for one in find("transformers").requirements if one.startswith(("transformers", "accelerate"))))' |
        xargs "${pip[@]}" --no-deps
    du -sh "$to"
}

# An environment over the one of $PYTHON, whose packages it sees behind its own.
unpack() {
    rm -rf "$ENVIRONMENT"
    "$PYTHON" -m venv --without-pip "$ENVIRONMENT"
    local purelib='import sysconfig; print(sysconfig.get_path("purelib"))' site
    site=$("$ENVIRONMENT/bin/python" -c "$purelib")
    local wheel
    for wheel in "$1"/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "$site"; done # no pip is needed for these
    "$PYTHON" -c "$purelib" >"$site/zz_below.pth"
    echo "$PWD/src" >"$site/zz_quern.pth"
    printf '#!%s\nfrom quern.cli.main import run\nrun()\n' "$PWD/$ENVIRONMENT/bin/python" >"$ENVIRONMENT/bin/quern"
    chmod +x "$ENVIRONMENT/bin/quern"
}

case ${1:-} in
pack)
    pack "${@:2}"
    ;;
--wheels)
    unpack "$2"
    exec timeout --signal=INT 480 "$ENVIRONMENT/bin/python" bench/gpu_check.py \
        --transformers "$PWD/$ENVIRONMENT" "${@:3}"
    ;;
*)
    exec .venv/bin/python bench/gpu_check.py "$@"
    ;;
esac
