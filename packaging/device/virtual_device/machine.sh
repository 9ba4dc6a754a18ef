# machine.sh TERMINAL QEMU ARGUMENT...: runs QEMU until it or this program's owner ends.
#
# This is the first process of a PID namespace, which ends with it. The owner has the writing end of
# standard input. QEMU's own input is TERMINAL, a file.
exec 3<&0 4<"$1"
shift
"$@" <&4 3<&- 4<&- &
qemu=$!
(
    cat <&3 >/dev/null
    kill -KILL $qemu
) &
exec 3<&- 4<&-
wait $qemu
