#!/usr/bin/env bash
# Make .venv with the pinned dependencies. Called by make; safe to call again. Argument `dev`: the test tools too.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
extra=${1:+[$1]}

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'finetui: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null || die "no $python here; install Python 3.11 or newer, or set PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version) is too old; finetui needs 3.11 or newer (set PYTHON=/path/to/python3.11)"
"$python" -c 'import venv, ensurepip' 2>/dev/null || die "$python has no venv module; on Debian: apt install python3-venv"

if [ ! -x .venv/bin/python ]; then
    say "finetui: making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)

# llama.cpp, for quantizing, certifying and chatting. With CUDA only where both the compiler and a driver are:
# a CUDA build cannot even be loaded on a machine without one. FINETUI_CUDA=1 or 0 decides otherwise.
cuda=${FINETUI_CUDA:-}
if [ -z "$cuda" ]; then
    cuda=0
    if command -v nvcc >/dev/null; then
        if [ -e /proc/driver/nvidia/version ] || [ -e /dev/dxg ]; then cuda=1; else nvcc_only=1; fi
    fi
fi
version=$(sed -n 's/^llama-cpp-python==//p' constraints.txt)
flavour="$version cuda=$cuda"
if [ "$(cat .venv/llama-cpp 2>/dev/null || true)" != "$flavour" ]; then
    command -v c++ >/dev/null || command -v g++ >/dev/null || die "no C++ compiler here; on Debian: apt install g++"
    if [ "$cuda" = 1 ]; then
        say "finetui: building llama.cpp with CUDA (nvcc found; once, 10 to 30 minutes). Chat and certificate will use the GPU."
    else
        say "finetui: building llama.cpp for the CPU (once, about six minutes). Training uses the GPU all the same;"
        if [ "${nvcc_only:-0}" = 1 ]; then
            say "         chat and certificate run on the CPU: nvcc is here, but no NVIDIA driver (FINETUI_CUDA=1 builds anyway)."
        else
            say "         chat and certificate run on the CPU: nvcc was not found (install the CUDA toolkit, then make clean run)."
        fi
    fi
    flag=off
    [ "$cuda" = 1 ] && flag=on
    # The sources by themselves: no wheel of pip's cache, whose key does not know the build flags and would hand a CPU
    # build to a machine with CUDA; and the tests compare with llama.cpp's own converter, templates and vocabularies.
    rm -rf .venv/src
    "${pip[@]}" download --no-deps --no-binary llama-cpp-python --dest .venv/src "llama-cpp-python==$version"
    CMAKE_ARGS="-DGGML_CUDA=$flag" CMAKE_BUILD_PARALLEL_LEVEL=$(getconf _NPROCESSORS_ONLN) \
        "${pip[@]}" install --no-cache-dir --force-reinstall --no-deps --constraint constraints.txt .venv/src/*.tar.gz
    printf '%s' "$flavour" >.venv/llama-cpp
fi

say "finetui: installing the pinned dependencies"
"${pip[@]}" install --constraint constraints.txt --editable ".$extra"

if [ -n "$extra" ] && [ ! -d .venv/llama-cpp-sources ]; then
    ls .venv/src/*.tar.gz >/dev/null 2>&1 ||
        "${pip[@]}" download --no-deps --no-binary llama-cpp-python --dest .venv/src "llama-cpp-python==$version"
    say "finetui: unpacking llama.cpp's own converter, templates and vocabularies, for the tests"
    name=$(basename .venv/src/*.tar.gz .tar.gz)
    tar -xzf .venv/src/"$name".tar.gz -C .venv/src \
        "$name"/vendor/llama.cpp/{convert_hf_to_gguf.py,conversion,gguf-py,models}
    mv .venv/src/"$name"/vendor/llama.cpp .venv/llama-cpp-sources
    rm -rf .venv/src/"$name"
fi
