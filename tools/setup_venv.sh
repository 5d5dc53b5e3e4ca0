#!/bin/sh
# Makes .venv and installs this checkout into it: `setup_venv.sh EXTRA` (broker or dev).
# Does nothing when that was done for this folder, this pyproject.toml and this interpreter.
set -eu
cd "$(dirname "$0")/.."
extra=$1
python=.venv/bin/python
log=.venv/install.log
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

say() { echo "setup: $*"; }
fail() {
    echo "error: $*" >&2
    exit 1
}

identity() { { pwd && "$python" -V && cat pyproject.toml; } 2>/dev/null | cksum; }
is_installed() { [ -f ".venv/.installed-$1" ] && [ "$(cat ".venv/.installed-$1")" = "$(identity)" ]; }

can_make_venv() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if can_make_venv "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python >= 3.11 with the venv module found; on Debian: apt-get install python3 python3-venv, or name one: make PYTHON=/path/to/python3"
}

make_venv() {
    if "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        return
    fi
    found=$(find_python)
    say "making .venv with $("$found" -V) ($found)"
    rm -rf .venv || fail ".venv is broken and cannot be removed; remove it as its owner"
    "$found" -m venv .venv || fail "$found cannot make .venv; on Debian: apt-get install python3-venv"
}

llama_requirement() { grep -o 'llama-cpp-python[^"]*' pyproject.toml | head -n 1; }

# A wheel that is installed, in pip's cache or on an index spares the build.
has_llama_wheel() {
    version=$(llama_requirement | sed 's/.*==//')
    "$python" -m pip show llama-cpp-python 2>/dev/null | grep -qx "Version: $version" ||
        "$python" -m pip cache list llama_cpp_python 2>/dev/null | grep -q "llama_cpp_python-$version-" ||
        "$python" -m pip install --dry-run --no-deps --only-binary :all: "llama-cpp-python==$version" >/dev/null 2>&1
}

# Only the first word counts: CC may be `ccache gcc`.
is_program() { command -v "${1%% *}" >/dev/null 2>&1; }
has_compilers() { is_program "${CC:-cc}" && is_program "${CXX:-c++}"; }

announce_build() {
    if has_llama_wheel; then
        return
    fi
    has_compilers || fail "llama-cpp-python must be built and no C and C++ compiler is here; on Debian: apt-get install gcc g++"
    say "llama.cpp is compiled for this machine: about 5 minutes on 2 cores, once"
}

# Only the engine itself is compiled, without image input and the helpers of llama.cpp's own programs; what the user
# asks for comes last and wins. The arguments are split at spaces.
leave_out=-DCMAKE_PROJECT_llama.cpp_INCLUDE=$PWD/tools/llama_build.cmake
case $leave_out in *" "*) leave_out= ;; esac
export CMAKE_ARGS="-DLLAVA_BUILD=OFF $leave_out ${CMAKE_ARGS:-}"

install() {
    say "installing edgeagent[$extra] (log: $log)"
    if ! "$python" -m pip install --editable ".[$extra]" >>"$log" 2>&1 </dev/null; then
        tail -n 25 "$log" >&2
        fail "the installation failed; the lines above are the end of $log"
    fi
}

if is_installed "$extra"; then
    exit 0
fi
if command -v flock >/dev/null 2>&1; then
    exec 9<pyproject.toml
    flock 9 # a second `make` waits for the first instead of installing into the same folder
fi
if is_installed "$extra"; then
    exit 0
fi
make_venv
[ -w .venv ] || fail ".venv belongs to someone else; remove it, or run make as its owner"
: >"$log"
announce_build
install
rm -f .venv/.installed-*
identity >".venv/.installed-$extra"
if [ "$extra" = dev ]; then
    identity >.venv/.installed-broker # dev holds all of broker
fi
say "ready"
