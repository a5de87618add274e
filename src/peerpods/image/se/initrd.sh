#!/bin/busybox sh
# First process of an s390x pod VM, from the initrd: opens the verity root by the hash on the kernel command line, lays
# memory over it and hands over to systemd. It asks nobody and starts no shell: whatever fails powers the machine off.
export PATH=/usr/bin:/usr/sbin DM_DISABLE_UDEV=1
bb=/usr/bin/busybox
# Should powering off fail: the end of process 1 is a panic, and a panic ends the machine.
stop() { echo "peerpods stopped: $*"; $bb sleep 1; $bb poweroff -f; exit 1; }

$bb mount -t proc -o nosuid,nodev,noexec proc /proc || stop "no /proc"
$bb mount -t sysfs -o nosuid,nodev,noexec sysfs /sys || stop "no /sys"
$bb mount -t devtmpfs -o nosuid,noexec devtmpfs /dev || stop "no /dev"
$bb mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run || stop "no /run"
read -r modules < /etc/modules
read -r tried < /etc/modules.tried # those for hardware that not each machine has
for name in $tried; do $bb modprobe "$name" 2> /dev/null; done
for name in $modules; do $bb modprobe "$name" || stop "the kernel refused its module $name"; done

hash=
read -r line < /proc/cmdline
for word in $line; do case $word in roothash=*) hash=${word#*=} ;; esac; done
[ ${#hash} = 64 ] || stop "the kernel command line has no roothash= of 64 digits"
case $hash in *[!0-9a-f]*) stop "the kernel command line has no roothash= of 64 digits" ;; esac

# Discoverable partitions: the two are called as the two halves of the root hash are.
# By its path: busybox has a findfs of its own, which does not know them.
name() { echo "$1" | $bb sed 's/\(.\{8\}\)\(.\{4\}\)\(.\{4\}\)\(.\{4\}\)/\1-\2-\3-\4-/'; }
data=$(name "$(echo "$hash" | $bb cut -c1-32)") tree=$(name "$(echo "$hash" | $bb cut -c33-64)")
tries=0
while :; do
    disk=$(/usr/sbin/findfs "PARTUUID=$data" 2> /dev/null) hashes=$(/usr/sbin/findfs "PARTUUID=$tree" 2> /dev/null)
    [ -b "$disk" ] && [ -b "$hashes" ] && break
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || stop "no disk has the partitions of this root hash after 300 looks"
    $bb usleep 100000
done
# A wrong block is a panic too.
/usr/sbin/veritysetup open --panic-on-corruption "$disk" root "$hashes" "$hash" || stop "dm-verity refused the root disk"
$bb mount -t erofs -o ro,nodev,noatime /dev/mapper/root /lower || stop "the root disk has no root file system"
$bb mount -t tmpfs -o mode=755,nodev tmpfs /upper || stop "no memory to write to"
$bb mkdir -p /upper/data /upper/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root ||
    stop "memory cannot be laid over the root"
for place in proc sys dev run; do $bb mount --move "/$place" "/root/$place" || stop "/$place cannot be moved"; done
exec $bb switch_root /root /usr/lib/systemd/systemd
