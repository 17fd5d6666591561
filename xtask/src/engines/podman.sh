# SPDX-License-Identifier: Apache-2.0 OR MIT
# podman knows how to call a runtime by the name of its binary.
ln -s "$BINARY" "$work/runc"
podman="podman --root $work/root --runroot $work/run --storage-driver overlay --runtime $work/runc --cgroup-manager cgroupfs"
cleanup="$podman rm --all --force --time 0 >/dev/null 2>&1"
# What podman asks for by default is more than a caller without CAP_SYS_RESOURCE may give.
common="--network none --ulimit nofile=1000:1000 --ulimit nproc=1000:1000"
eat='x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done'
many='for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait'
image=localhost/deb:12
skopeo copy --quiet "oci:$LAYOUT:deb-12" "containers-storage:[overlay@$work/root+$work/run]$image" || exit 1
is run "$($podman run --rm $common $image echo hello)" hello
$podman run --rm $common $image sh -c 'exit 7'
is 'exit code' $? 7
$podman run --rm $common $image /no/such 2>"$work/said"
is 'no such command' $? 127
has 'no such command' "$(cat "$work/said")" 'not found'
$podman run --rm $common $image /etc 2>"$work/said"
is 'no program' $? 126
has terminal "$(script -qec "$podman run --rm -t $common $image sh -c 'tty; echo seen'" /dev/null </dev/null)" /dev/pts/0
$podman run --name m $common --memory 20m --memory-swap 20m $image sh -c "$eat"
is 'memory limit' $? 137
is 'out of memory' "$($podman inspect m --format '{{.State.OOMKilled}}')" true
$podman rm m >/dev/null
has 'limit of processes' "$($podman run --rm $common --pids-limit 5 $image sh -c "$many" 2>&1)" 'Cannot fork'
$podman run -d --name d $common $image sleep 1000 >/dev/null
is exec "$($podman exec d echo in)" in
$podman exec d sh -c 'exit 5'
is "exec's exit code" $? 5
$podman exec d /no/such 2>/dev/null
is "exec's missing command" $? 127
has "exec's terminal" "$(script -qec "$podman exec -t d tty" /dev/null </dev/null)" /dev/pts/
$podman pause d >/dev/null
is paused "$($podman inspect d --format '{{.State.Status}}')" paused
$podman unpause d >/dev/null
$podman update --memory 64m d >/dev/null
is update $? 0
has top "$($podman top d comm)" sleep
$podman stop -t 1 d >/dev/null 2>&1
is 'stopped' "$($podman inspect d --format '{{.State.Status}} {{.State.ExitCode}}')" 'exited 137'
$podman start d >/dev/null
is 'started again' "$($podman inspect d --format '{{.State.Status}}')" running
$podman rm -f -t 0 d >/dev/null
is 'none left' "$($podman ps -aq)" ''
$podman rmi -f $image >/dev/null
