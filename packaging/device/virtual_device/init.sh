#!/bin/sh
# The first process of a machine: it mounts the disk, copies /device to it, and starts systemd.
# /device has the files that a machine gets for this boot; see machine.py.
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do
    [ ! -e "$module" ] || insmod "$module"
done
read -r line </proc/cmdline
for word in $line; do
    case $word in
    root=*) disk=${word#root=} ;;
    init=*) init=${word#init=} ;;
    esac
done
while [ ! -b "$disk" ]; do
    sleep 0.05
done
mount -t ext4 "$disk" /root || exit 1 # the kernel panics, and the machine ends
cp -r /device/. /root/ # unlike -a, leaves the modes of folders alone
rm -f /root/.keep
sync # flashed is flashed, whenever the power is cut
exec switch_root /root "${init:-/sbin/init}"
