# Sourced by the other scripts: a virtual environment of the project's own in .venv, from the locked
# requirements. Needs a shell and Python 3.11 to 3.13; does nothing when everything is there.

set -eu
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE  # processes are started by the hundred
export PYTHONUTF8=1 PIP_DISABLE_PIP_VERSION_CHECK=1
PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}:/usr/sbin:/sbin"
export PATH

fail() {
    echo "$(basename "$0"): $1" >&2
    exit 1
}

# The distribution's Python comes first: it is usually the fastest build at hand.
find_python() {
    for candidate in ${PYTHON:-} /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11, 3.12 or 3.13 is needed; on Debian: apt-get install python3 python3-venv"
}

# system_packages PROGRAM=PACKAGE …: installs what is missing, or says what to install.
system_packages() {
    missing=""
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing ${pair#*=}"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing:$missing" >&2
        apt-get update -qq >&2
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
    else
        fail "these packages are needed; as root on Debian: apt-get install$missing"
    fi
}

# locked_venv FILE…: .venv holds exactly what these requirement files name, and guestgate itself.
locked_venv() {
    stamp=$(cat "$@" pyproject.toml | sha256sum | cut -d' ' -f1)
    if [ "$(cat .venv/.stamp 2>/dev/null)" = "$stamp" ] && .venv/bin/python -c 'import guestgate' 2>/dev/null; then
        return 0
    fi
    python=$(find_python)
    echo "setting up .venv with $("$python" --version)" >&2
    rm -rf .venv
    if ! "$python" -m venv .venv 2>/dev/null; then
        rm -rf .venv
        system_packages "python3-venv-is-missing=python3-venv"
        "$python" -m venv .venv || fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
    fi
    for file in "$@"; do
        .venv/bin/pip install --quiet --require-hashes --requirement "$file"
    done
    .venv/bin/pip install --quiet --no-deps --no-build-isolation --editable .
    echo "$stamp" >.venv/.stamp
}
