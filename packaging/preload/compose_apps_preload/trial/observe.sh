# shellcheck shell=sh
# observe.sh: what the agent did in this boot, onto the second disk; then the machine is switched off.
#
# Runs in the image that is tried, when the agent's run has ended. @OFF@ is how to switch off, and
# @SHELL@ the unit that gives a person a shell before that, or true.
agent=compose-apps-early-start
mkdir -p /run/compose-apps-try
mount -t ext4 /dev/vdb /run/compose-apps-try && cd /run/compose-apps-try || exit

tell() { # FILE COMMAND...: keeps what a command says; a file that would be empty is left out
    file=$1
    shift
    timeout 120 "$@" >"$file" 2>>errors.txt
    status=$?
    [ -s "$file" ] || rm -f "$file"
    return $status
}

# Not the command: what it replaces has the same name, and would start apps.
if python3 -c "import compose_apps_early_start" 2>/dev/null; then
    tell status.txt $agent status --wait=5
    echo $? >exit-status
    tell record.json $agent status --wait=5 --json
    if [ -e record.json ]; then
        grep -q "^0" exit-status || tell evidence.txt $agent status --log
        tell timeline.json $agent timeline --json
        tell timeline.txt $agent timeline --svg timeline.svg
    fi
else
    timeout 300 systemctl is-system-running --wait >/dev/null 2>&1
fi
tell containers.txt docker ps --all --format "table {{.Names}}\t{{.Image}}\t{{.Status}}"
tell units.txt systemctl --no-pager --failed --plain --no-legend
tell journal.txt journalctl --boot --no-pager --output=short-monotonic --no-hostname
touch complete
cd /
umount /run/compose-apps-try
@SHELL@
@OFF@
