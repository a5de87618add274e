#!/bin/bash
# import.sh FOLDER KEY RELEASE NAME URI POOL FORMAT
. "$(dirname "$0")/../common.sh"
name=$4 pool=$6 format=$7 file=$1/podvm.$7
need virsh
[ -f "$file" ] || fail "there is no $file: build the image with formats=true, or give format=raw"
verified "$1" "$2" "$3"
libvirt() { virsh --quiet --connect "$uri" "$@"; }
uri=$5
! libvirt vol-info --pool "$pool" "$name" > /dev/null 2>&1 ||
    fail "the pool $pool has a volume $name already: delete it, or give another name"
say "uploading $file as $name into $pool"
libvirt vol-create-as "$pool" "$name" "$(stat -c %s "$file")" --format "$format"
trap 'libvirt vol-delete --pool "$pool" "$name"' EXIT # no half of a volume
libvirt vol-upload --pool "$pool" "$name" "$file" --sparse
trap - EXIT
