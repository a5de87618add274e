#!/bin/bash
# pack.sh FOLDER KEY RELEASE TEE ARCHIVE: the disk as Compute Engine takes it, disk.raw of whole GiB in a sparse tar.gz
. "$(dirname "$0")/../common.sh"
folder=$1 archive=$5
offered "Google Cloud" "$4" snp tdx none
verified "$folder" "$2" "$3"
scratch=$(mktemp -d "$archive.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
say "packing the disk"
cp --sparse=always "$folder/podvm.raw" "$scratch/disk.raw"
truncate -s %1G "$scratch/disk.raw"
tar --format=oldgnu --sparse --owner=0 --group=0 --numeric-owner --mode=0644 --mtime=@0 -C "$scratch" -cf - disk.raw |
    gzip -n > "$scratch/archive"
mv "$scratch/archive" "$archive"
