#!/bin/bash
# Sets up a fresh Debian 12 or 13: what tools/packages.txt lists, and nothing else of the host changes. No service is
# started or enabled: packages that would bring one are unpacked below the cache (the tools folder), never installed.
#
#   setup.sh [--group base|test] [--soft]   do it; --soft: without root, say what is missing and go on
#   setup.sh --tools                        print the tools folder (bin folders: usr/sbin, usr/bin), made or not
#   setup.sh --run CMD...                   run CMD with the tools at their usual paths, in a mount namespace of its own
#   setup.sh --list GROUP HOW               print the package names for this release
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/peerpods}
release=$(. /etc/os-release && echo "${VERSION_ID:-13}")
column=4; [ "$release" = 12 ] && column=3
key=$( (cat "$top/tools/packages.txt" "$top/tools/setup.sh"; echo "$release") | sha256sum | cut -c1-12)
tools=$cache/tools-$key

say() { printf 'setup: %s\n' "$*" >&2; }

names() { # GROUP HOW -> package names; group test includes base
    awk -v group="$1" -v how="$2" -v column="$column" '
        /^#/ || NF < 4 { next }
        ($1 == "base" || $1 == group) && $2 == how {
            name = ($column == "=") ? $3 : $column
            if (name != "-") print name
        }' "$top/tools/packages.txt"
}

missing() { # NAME... -> those that are not installed
    local have
    have=" $(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | awk '$1 == "installed" {print $2}' | tr '\n' ' ')"
    for name in "$@"; do
        case $have in *" $name "*) ;; *) echo "$name" ;; esac
    done
}

fresh_lists() { # makes sure that apt knows every NAME
    [ "$(apt-cache policy "$@" 2>/dev/null | grep -c 'Candidate: [^(]')" -ge $# ] && return
    [ "$(id -u)" = 0 ] || { say "apt does not know all of $*: run 'apt-get update' as root"; return 1; }
    say "reading the package lists"
    apt-get update -qq
}

# Maintainer scripts find these before the real ones, so that a dependency that is upgraded on the way does not touch
# services either. Every one succeeds and does nothing; `was-enabled` says no.
quiet_service_tools() { # FOLDER
    mkdir -p "$1"
    for tool in deb-systemd-invoke invoke-rc.d update-rc.d service systemctl udevadm; do
        printf '#!/bin/sh\nexit 0\n' > "$1/$tool"
    done
    printf '#!/bin/sh\nfor a; do case $a in was-enabled|debian-installed) exit 1;; esac; done\nexit 0\n' \
        > "$1/deb-systemd-helper"
    chmod 755 "$1"/*
}

install() {
    local wanted scratch status
    mapfile -t wanted < <(names "$group" install | xargs -r bash -c "$(declare -f missing); missing \"\$@\"" _)
    [ "${#wanted[@]}" = 0 ] && return
    if [ "$(id -u)" != 0 ]; then
        say "these packages are missing, and only root can install them: ${wanted[*]}"
        say "run as root: CACHE='$cache' tools/setup.sh --group $group"
        [ "$soft" = 1 ] && return
        exit 1
    fi
    fresh_lists "${wanted[@]}"
    say "installing ${#wanted[@]} packages: ${wanted[*]}"
    scratch=$(mktemp -d)
    quiet_service_tools "$scratch/bin"
    status=0
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none \
        apt-get install -y -qq --no-install-recommends --no-remove \
        -o DPkg::Lock::Timeout=600 -o DPkg::Options::=--force-confold -o Dpkg::Use-Pty=0 \
        -o DPkg::Path="$scratch/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        "${wanted[@]}" > "$scratch/log" 2>&1 || status=$?
    if [ "$status" != 0 ]; then
        tail -n 30 "$scratch/log" >&2
        say "apt-get failed (status $status): the lines above say why"
        rm -rf "$scratch"
        exit 1
    fi
    rm -rf "$scratch"
}

unpack() {
    [ -e "$tools/.done" ] && return
    local asked closure scratch
    mapfile -t asked < <(names test unpack)
    fresh_lists "${asked[@]}" || { [ "$soft" = 1 ] && return; exit 1; }
    # What the asked ones need and the host lacks; an init system and its kin are not needed to run a program.
    mapfile -t closure < <( { printf '%s\n' "${asked[@]}"
        apt-get -s install --no-install-recommends "${asked[@]}" 2>/dev/null | awk '$1 == "Inst" {print $2}'; } |
        sort -u | grep -v -E '^(systemd.*|libpam-systemd|dbus.*|polkitd|logrotate|init|udev)$')
    say "unpacking ${#closure[@]} packages into $tools (they bring services, so they are not installed)"
    mkdir -p "$cache"
    scratch=$(mktemp -d "$cache/tools.XXXXXX")
    mkdir "$scratch/debs" "$scratch/root"
    (cd "$scratch/debs" && apt-get download -qq -o APT::Sandbox::User=root "${closure[@]}" > ../log 2>&1) || {
        cat "$scratch/log" >&2; rm -rf "$scratch"; say "the packages could not be fetched: the lines above say why"; exit 1; }
    for deb in "$scratch"/debs/*.deb; do dpkg-deb -x "$deb" "$scratch/root"; done
    for folder in bin sbin lib lib64; do   # packages of Debian 12 still put some files outside of /usr
        if [ -d "$scratch/root/$folder" ]; then
            mkdir -p "$scratch/root/usr/$folder"
            cp -a "$scratch/root/$folder/." "$scratch/root/usr/$folder/"
            rm -rf "${scratch:?}/root/$folder"
        fi
    done
    (cd "$scratch/root" && rm -rf etc/init.d etc/rc?.d etc/systemd usr/lib/systemd usr/lib/udev usr/lib/sysusers.d \
        usr/lib/tmpfiles.d usr/share/doc usr/share/man usr/share/locale usr/share/gocode)
    touch "$scratch/root/.done"
    chmod 755 "$scratch/root"
    rm -rf "$tools"
    mv -T "$scratch/root" "$tools"
    rm -rf "$scratch"
}

# In a mount namespace of our own: the tools below /usr, their configuration below /etc, the folders and the user that
# their packages would have made. What is written to /etc, /var/lib and /var/cache there is gone with the namespace.
at_usual_paths() { # TOOLS
    local own name
    own=$(mktemp -d /run/peerpods-tools.XXXXXX)
    mount -t tmpfs -o mode=700 peerpods-tools "$own"
    for name in etc var/lib var/cache; do
        mkdir -p "$own/$name/upper" "$own/$name/work" "$own/$name/none"
        mount -t overlay -o \
            "lowerdir=/$name:$( [ -d "$1/$name" ] && echo "$1/$name" || echo "$own/$name/none"),upperdir=$own/$name/upper,workdir=$own/$name/work" \
            peerpods-tools "/$name"
    done
    mount -t overlay -o "ro,lowerdir=$1/usr:/usr" peerpods-tools /usr
    for name in libvirt-qemu:64055 libvirt:64056; do
        grep -q "^${name%:*}:" /etc/group || echo "${name%:*}:x:${name#*:}:" >> /etc/group
    done
    grep -q '^kvm:' /etc/group || echo 'kvm:x:64057:' >> /etc/group
    grep -q '^libvirt-qemu:' /etc/passwd ||
        echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >> /etc/passwd
    mkdir -p /etc/libvirt /var/lib/libvirt /var/cache/libvirt
    umount -l "$own"
    rmdir "$own"
}

group=test soft=0
while [ $# -gt 0 ]; do
    case $1 in
    --tools) echo "$tools"; exit 0 ;;
    --list) names "$2" "$3"; exit 0 ;;
    --run)
        shift
        if [ -e "$tools/.done" ] && [ "$(id -u)" = 0 ]; then
            exec unshare --mount --propagation private "$0" --run-inside "$tools" "$@"
        fi
        exec "$@" ;;
    --run-inside)
        tools=$2
        shift 2
        at_usual_paths "$tools"
        exec "$@" ;;
    --group) group=$2; shift 2 ;;
    --soft) soft=1; shift ;;
    *) say "unknown argument $1"; exit 2 ;;
    esac
done
command -v apt-get > /dev/null || { say "this is not a Debian system: install what tools/packages.txt lists by hand"; exit 1; }
stamp=$cache/setup-$group-$key
if { [ -e "$stamp" ] || [ -e "$cache/setup-test-$key" ]; } && [ -e "$tools/.done" ] &&
    [ -z "$(names "$group" install | xargs bash -c "$(declare -f missing); missing \"\$@\"" _)" ]; then
    exit 0
fi
mkdir -p "$cache"
exec 9> "$cache/setup.lock"
flock 9
began=$(date +%s)
install
unpack
touch "$stamp"
say "done in $(($(date +%s) - began)) s"
