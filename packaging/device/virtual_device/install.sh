#!/bin/sh
# The first process of a machine that installs packages into its own tree: those in apt's cache.
# The whole tree is written to the second disk. See installation.py.
set -e # the kernel panics, and the machine ends
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DPKG_COLORS=never
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
# Nothing may be started: invoke-rc.d asks this program.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
# What packages take for granted that are unpacked before these two are set up.
[ -e /etc/passwd ] || cp /usr/share/base-passwd/passwd.master /etc/passwd
[ -e /etc/group ] || cp /usr/share/base-passwd/group.master /etc/group
[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk
# dpkg sets packages up in the order of their dependencies, but unpacks them in any.
dpkg --force-depends --force-unsafe-io --install /var/cache/apt/archives/*.deb
rm /usr/sbin/policy-rc.d /install /var/cache/apt/archives/*.deb
rm -f /var/lib/dbus/machine-id # systemd would take it for the machine's
exec 3>/dev/vdb
umount --lazy /dev
umount /sys /run /tmp
tar --create --one-file-system --exclude=./lost+found --numeric-owner --xattrs \
    '--xattrs-include=*' --directory=/ . >&3
sync
exec busybox poweroff -f
