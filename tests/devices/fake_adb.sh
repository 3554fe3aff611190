#!/bin/sh
# An adb that runs the phone's commands here, and fails as the files in its folder say.
#
# devices: what follows "List of devices attached". cannot-start: the server's complaint. full: no room on the phone.
# cut: the connection breaks in every shell command that has this in it. bin: programs that are on the phone.

home=$(dirname "$0")
said() { [ -f "$home/$1" ] && cat "$home/$1"; }
complain() {
    echo "$1" >&2
    exit 1
}

[ -s "$home/cannot-start" ] && complain "$(said cannot-start)"
case $1 in
version) printf 'Android Debug Bridge version 1.0.41\nVersion 34.0.5-fake\n' && exit ;;
devices) echo "List of devices attached" && said devices && exit ;;
esac

state=$(said devices | sed -n "s/^$2	//p")
[ -n "$state" ] || complain "error: device '$2' not found"
[ "$state" = device ] || complain "error: device $state"
cut=$(said cut)
case $3 in
shell)
    case $4 in
    *"${cut:-no such command}"*) : >"$home/devices" && printf 'half a li' && exit ;;
    esac
    PATH="$home/bin:$PATH" exec sh -c "$(printf '%s' "$4" | sed "s,/data/local/tmp,$home/phone,g")"
    ;;
push)
    [ -s "$home/full" ] && complain "adb: error: failed to copy '$4' to '$5': remote write failed: $(said full)"
    exec cp "$4" "$home/phone${5#/data/local/tmp}"
    ;;
esac
