# shellcheck shell=sh
# dockerd.sh CONFIG HOSTS ARGV...: dockerd with this configuration file, for as long as standard
# input is open, and beside it ARGV, a registry.
#
# The first process of fresh namespaces (mounts, network, processes). HOSTS becomes /etc/hosts.
set -eu
config=$1
hosts=$2
shift 2

mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
mount --bind "$hosts" /etc/hosts
"$@" &
# When dockerd ends, all does.
{
    dockerd --config-file "$config" <&- >&2 || :
    kill -KILL -1
} &
cat >/dev/null || :
if pid=$(cat /run/dockerd.pid 2>/dev/null); then
    kill -TERM "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
fi
