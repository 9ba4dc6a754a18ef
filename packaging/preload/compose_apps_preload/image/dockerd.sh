# shellcheck shell=sh
# dockerd.sh CONFIG HOSTS DATA APPS ARGV...: run dockerd with this configuration file as long as
# standard input is open, and beside it ARGV, a registry.
#
# This is the first process in new namespaces (mount, network, PID). HOSTS becomes /etc/hosts, DATA
# becomes /var/lib/docker and APPS becomes /var/sota/compose-apps, as on a device, because such paths
# get into the containers. Nothing else of this machine can be written.
set -eu
config=$1
hosts=$2
data=$3
apps=$4
shift 4

# own FOLDER: make it a tmpfs with all that was in it, so that it can get folders that this machine
# does not have.
own() {
    mkdir -p "/run/was$1"
    mount --rbind "$1" "/run/was$1"
    mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs "$1"
    for entry in "/run/was$1"/* "/run/was$1"/.[!.]*; do
        name=$1/${entry##*/}
        if [ -L "$entry" ]; then
            cp -P "$entry" "$name"
        elif [ -d "$entry" ]; then
            mkdir "$name"
            mount --rbind "$entry" "$name"
        elif [ -f "$entry" ]; then
            : >"$name"
            mount --bind "$entry" "$name"
        fi
    done
}

mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
# The registry's blobs, and Python, may lie where the folders of the device come to lie.
mkfifo /run/began
unshare --mount sh -c 'echo >/run/began; exec "$@"' sh "$@" &
read -r _ </run/began
cp "$config" /run/daemon.json
cp "$hosts" /run/hosts
mkdir /run/data /run/apps /run/docker-config
mount --bind "$data" /run/data
mount --bind "$apps" /run/apps

while read -r _ _ _ _ point _; do
    point=$(printf %b "$(printf %s "$point" | sed 's/\\/\\0/g')")
    case $point in
    /run | /run/data | /proc | /proc/* | /sys | /sys/*) ;;
    *) mount -o remount,bind,ro "$point" 2>/dev/null || : ;;
    esac
done </proc/self/mountinfo
own /etc
own /var
own /var/lib
mount --bind /run/hosts /etc/hosts
mkdir -p /etc/docker /var/lib/docker /var/sota
# docker 20.10 puts a key there.
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /etc/docker
mount --bind /run/data /var/lib/docker
mount -t tmpfs -o nosuid,nodev,mode=0700 tmpfs /var/sota
mkdir /var/sota/compose-apps
mount --bind /run/apps /var/sota/compose-apps

# When dockerd ends, all does.
{
    dockerd --config-file /run/daemon.json <&- >&2 || :
    kill -KILL -1
} &
cat >/dev/null || :
if pid=$(cat /run/dockerd.pid 2>/dev/null); then
    kill -TERM "$pid"
    wait
fi
