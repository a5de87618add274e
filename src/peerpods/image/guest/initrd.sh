#!/bin/busybox sh
# First process of a pod VM, from the initrd: finds the root disk, checks it by dm-verity against the root hash on the
# kernel command line, mounts what is needed and hands over to boot.py.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
bb=/bin/busybox
say() { read -r up rest < /proc/uptime; echo "peerpods[$up] $*"; }
stop() { say "stopped: $*"; $bb sleep 1; $bb poweroff -f; }

$bb mount -t proc -o nosuid,nodev,noexec proc /proc
$bb mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
$bb mount -t devtmpfs -o nosuid,noexec devtmpfs /dev
say "phase kernel"
read -r modules < /etc/modules
$bb modprobe -a $modules || say "a module was refused: $modules"

verity=
read -r line < /proc/cmdline
for word in $line; do case $word in peerpods.verity=*) verity=${word#*=} ;; esac; done
# ROOTHASH,SALT,BLOCKS,FIRST-HASH-BLOCK, in blocks of 4096 bytes
IFS=, read -r hash salt blocks first << END
$verity
END
[ -n "$first" ] || stop "the kernel command line has no complete peerpods.verity="

disk= tries=0
while [ -z "$disk" ]; do
    for name in /sys/block/vd* /sys/block/sd*; do
        name=/dev/${name##*/}
        [ -b "$name" ] || continue
        magic=$($bb dd if="$name" bs=4 skip=256 count=1 2> /dev/null | $bb hexdump -e '1/4 "%08x"')
        [ "$magic" = e0f5e1e2 ] && { disk=$name; break; }
    done
    [ -n "$disk" ] && break
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || stop "no disk with the root file system within 10 s"
    $bb usleep 100000
done
# A wrong block restarts the machine, which ends the instance; a panic would push its reason off the console's last lines.
dmsetup create root --readonly --noudevsync --noudevrules --table \
    "0 $((blocks * 8)) verity 1 $disk $disk 4096 4096 $blocks $first sha512 $hash $salt 1 restart_on_corruption" ||
    stop "dm-verity refused the root disk"
say "root disk $disk: if the machine restarts here, it is not the one of this kernel command line"
$bb mount -t erofs -o ro,nodev,noatime /dev/dm-0 /root || stop "the root disk is not the one of this kernel command line"

# Few processes: each costs hundredths of a second without KVM. /dev is one and the same wherever it is mounted.
$bb mkdir -p /dev/pts /dev/shm /dev/mqueue
$bb ln -sf /proc/self/fd /dev/fd
$bb mount -a -T /etc/fstab || stop "the VM's own file systems cannot be mounted"
$bb mkdir -p /root/var/lib /root/var/tmp /root/var/log /root/var/cache /root/run/netns /root/run/lock \
    /root/run/kata-containers
$bb mkdir -m 700 /root/run/peerpod
cd /root
echo podvm > proc/sys/kernel/hostname
$bb ip link set lo up
if [ -e sys/class/net/eth0 ]; then
    $bb ip link set eth0 up
    $bb chroot . /usr/bin/busybox udhcpc -f -t 5 -T 1 -A 2 -i eth0 -s /usr/lib/peerpods/udhcpc.sh > dev/null 2>&1 < dev/null &
fi
read -r up rest < proc/uptime
echo "peerpods[$up] phase initrd"
# the compiled form: python would compile a script anew at each start
exec $bb switch_root /root /usr/bin/python3.13 -E -s -S -B /usr/lib/peerpods/__pycache__/boot.cpython-313.pyc
