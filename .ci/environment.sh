# What the project's commands share: the environments that they make for themselves. Sourced from the clone's
# top folder, which `environment.sh` expects to be the working directory.

# What is built at installation, beside what the locks name.
built_from="pyproject.toml schemas/_*.[ch] connectors/postgres/*/_*.c"

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            if ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                echo "$command: $candidate cannot make virtual environments;" \
                    "on Debian and Ubuntu: apt-get install python3-venv" >&2
                exit 1
            fi
            echo "$candidate"
            return
        fi
    done
    echo "$command: no Python 3.11 or newer on PATH; python3 is $(python3 --version 2>&1 || true)" >&2
    exit 1
}

# make_environment FOLDER: made anew when it does not run here (a moved clone, a removed Python).
make_environment() {
    local base
    if ! "$1/bin/python" -c 'import os, sys; sys.exit(not os.path.samefile(sys.prefix, sys.argv[1]))' "$1" 2>/dev/null; then
        base=$(find_python)
        echo "making $1 with $($base --version)"
        rm -rf "$1"
        "$base" -m venv "$1"
    fi
}

# fill_environment FOLDER LOCK... -- COMMAND...: COMMAND installs, when what it should install has changed.
fill_environment() {
    local folder=$1 locks=() wanted
    shift
    while [ "$1" != -- ]; do
        locks+=("$1")
        shift
    done
    shift
    # shellcheck disable=SC2086 # patterns
    wanted="$(cat "${locks[@]}" $built_from | cksum) $PWD"
    if [ "$(cat "$folder/installed" 2>/dev/null)" != "$wanted" ]; then
        rm -f "$folder/installed"
        "$@"
        echo "$wanted" >"$folder/installed"
    fi
}

install_development() {
    local pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check install)
    echo "installing what requirements-dev.lock names"
    "${pip[@]}" -r requirements-dev.lock
    "${pip[@]}" --no-build-isolation --no-deps -e .
}

# .venv, with what ./test, benchmarks/run and tests/scenario/soak need.
prepare_development() {
    make_environment .venv
    fill_environment .venv requirements-dev.lock -- install_development
}
