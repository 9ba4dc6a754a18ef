# shellcheck shell=sh
# boot.sh FOLDER LOWERDIR [KIND OPTIONS INSIDE]...: the device's first process.
#
# It runs in new namespaces. It mounts the layers LOWERDIR under FOLDER/upper on FOLDER/root, and
# the control groups (file system type, options, mount point). It makes this its root and writes its
# host process id to standard output. It ends when standard input ends.
set -eu
folder=$1
lower=$2
shift 2
# /proc is still the host's.
read -r pid _ </proc/self/stat

mount -t overlay -o "lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work" device "$folder/root"
cd "$folder/root"
mkdir -p var/lib/containerd var/lib/docker var/lmp
mkdir -p var/sota
chmod 0700 var/sota
# overlay2 cannot sit on an overlay.
mount --bind "$folder/containerd" var/lib/containerd
mount --bind "$folder/docker" var/lib/docker
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs run
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs dev/shm
mkdir -m 01777 run/lock
case ${3-} in
/sys/fs/cgroup/*) mount -t tmpfs -o mode=0755 tmpfs sys/fs/cgroup ;;
esac
while [ $# -gt 0 ]; do
    mkdir -p ".$3"
    mount -t "$1" -o "$2" cgroup ".$3"
    shift 3
done

pivot_root . mnt
umount -l /mnt
cd /
ip link set lo up
echo device >/proc/sys/kernel/hostname
echo device >/etc/hostname
printf '%s\n' '127.0.0.1 localhost device' >/etc/hosts
: >/etc/resolv.conf
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id

echo "$pid"
exec tini -- cat >/dev/null
