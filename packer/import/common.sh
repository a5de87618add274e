# Read by the import scripts. What is imported is the finished disk as it was signed; it is never booted on the way.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() { printf 'import: %s\n' "$*" >&2; }
fail() { say "$*"; exit 2; }

need() { # PROGRAM...
    for program; do command -v "$program" > /dev/null || fail "there is no $program here: install it"; done
}

offered() { # CLOUD TEE OFFERED...
    local cloud=$1 tee=$2
    shift 2
    for one; do [ "$one" = "$tee" ] && return; done
    fail "$cloud has no machines for TEE=$tee: build the image for one of: $*"
}

verified() { # FOLDER KEY RELEASE: refuses an image that is not what KEY's owner signed
    local venv
    make -s --no-print-directory -C "$top" venv >&2
    venv=$(make -s --no-print-directory -C "$top" print-venv)
    say "verifying $1"
    if [ "$3" = true ]; then
        "$venv/bin/peerpods" image verify --release --key "$2" "$1"
    else
        "$venv/bin/peerpods" image verify --key "$2" "$1"
    fi
}
