#!/bin/bash
# Makes the virtual environment, once per content of requirements/dev.txt and interpreter, and prints its path.
# --path only prints. The project itself is on the path by a .pth file: no editable build, no egg-info in the tree.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-/usr/bin/python3}
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/peerpods}
# Before set-up has installed it, Python is what it is going to be: the path must not change on the way.
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null ||
    case $(. /etc/os-release && echo "${VERSION_ID:-}") in 12) echo 3.11 ;; 13) echo 3.13 ;; *) echo none ;; esac)
key=$( (cat "$top/requirements/dev.txt" "$top/tools/venv.sh"; echo "$version $top") | sha256sum | cut -c1-16)
venv=$cache/venv-$key
if [ "${1:-}" = --path ]; then echo "$venv"; exit 0; fi
if [ -e "$venv/.done" ]; then exit 0; fi
mkdir -p "$cache"
exec 9>"$cache/venv.lock"
flock 9
if [ -e "$venv/.done" ]; then exit 0; fi
echo "making the virtual environment in $venv (a minute or two, once)" >&2
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check --require-hashes --no-deps \
    -r <(awk '/^(setuptools|wheel)==/{p=1} p{print} p&&!/\\$/{p=0}' "$top/requirements/dev.txt")
"$venv/bin/pip" install -q --disable-pip-version-check --require-hashes --no-deps --no-build-isolation \
    -r "$top/requirements/dev.txt"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$top/src" > "$site/peerpods-dev.pth"
printf '#!%s\nfrom peerpods.cli.main import main\nmain()\n' "$venv/bin/python" > "$venv/bin/peerpods"
printf '#!%s\nfrom peerpods.userdata.reader import main\nmain()\n' "$venv/bin/python" > "$venv/bin/peerpods-userdata"
chmod +x "$venv/bin/peerpods" "$venv/bin/peerpods-userdata"
touch "$venv/.done"
