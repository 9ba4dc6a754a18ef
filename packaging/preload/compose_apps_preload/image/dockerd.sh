# shellcheck shell=sh
# dockerd.sh CONFIG HOSTS ARGV...: run dockerd with this configuration file as long as standard
# input is open, and beside it ARGV, a registry.
#
# This is the first process in new namespaces (mount, network, PID). HOSTS becomes /etc/hosts.
set -eu
config=$1
hosts=$2
shift 2

mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
mount --bind "$hosts" /etc/hosts
"$@" &
# When dockerd ends, everything ends.
{
    dockerd --config-file "$config" <&- >&2 || :
    kill -KILL -1
} &
cat >/dev/null || :
if pid=$(cat /run/dockerd.pid 2>/dev/null); then
    kill -TERM "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
fi
