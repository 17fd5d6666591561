# SPDX-License-Identifier: Apache-2.0 OR MIT
mkdir -p /run/stos-engines
cat >"$work/config.toml" <<C
version = 3
root = "$work/root"
state = "/run/stos-engines/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"]
[grpc]
  address = "/run/stos-engines/containerd.sock"
[ttrpc]
  address = "/run/stos-engines/ttrpc.sock"
C
containerd --config "$work/config.toml" >"$work/log" 2>&1 &
pids=$!
for _ in $(seq 100); do [ -S /run/stos-engines/containerd.sock ] && break; sleep 0.1; done
ctr="ctr --address /run/stos-engines/containerd.sock"
cleanup='for task in $($ctr task ls -q); do $ctr task delete --force "$task"; done 2>/dev/null'
on="--runtime io.containerd.runc.v2 --runc-binary $BINARY"
eat='x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done'
many='for i in 1 2 3 4 5 6; do sleep 1 & done; wait'
image=localhost/deb:12
skopeo copy --quiet "oci:$LAYOUT:deb-12" "oci-archive:$work/deb.tar:$image" || exit 1
$ctr images import "$work/deb.tar" >/dev/null || exit 1
image=$($ctr images ls -q | head -1)
# gone ID: a task that was told to end has done so.
gone() {
    for _ in $(seq 100); do $ctr task ls | grep -q "^$1 .*STOPPED" && return; sleep 0.05; done
    echo "$1 does not end"
    exit 1
}
is run "$($ctr run --rm $on $image a1 echo hello)" hello
$ctr run --rm $on $image a2 sh -c 'exit 7'
is 'exit code' $? 7
has 'no such command' "$($ctr run --rm $on $image a3 /no/such 2>&1)" '/no/such'
has terminal "$(script -qec "$ctr run --rm -t $on $image a4 sh -c 'tty; echo seen'" /dev/null </dev/null)" /dev/pts/0
$ctr run -d $on $image b sleep 1000
is exec "$($ctr task exec --exec-id e1 b echo in)" in
$ctr task exec --exec-id e2 b sh -c 'exit 5'
is "exec's exit code" $? 5
has "exec's terminal" "$(script -qec "$ctr task exec -t --exec-id e3 b tty" /dev/null </dev/null)" /dev/pts/
has processes "$($ctr task ps b)" "$($ctr task ls | awk '$1 == "b" { print $2 }')"
$ctr task pause b
has paused "$($ctr task ls)" PAUSED
$ctr task resume b
$ctr task kill -s KILL b
gone b
$ctr task delete b 2>/dev/null
$ctr containers rm b
$ctr run --rm $on --memory-limit 20971520 $image c sh -c "$eat"
is 'memory limit' $? 137
$ctr run -d $on $image d sleep 1000
has 'limit of processes' "$(
    pid=$($ctr task ls | awk '$1 == "d" { print $2 }')
    for place in "/sys/fs/cgroup/pids$(sed -n 's/^[0-9]*:pids://p' "/proc/$pid/cgroup")" "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")"; do
        [ -f "$place/pids.max" ] && echo 4 >"$place/pids.max" && break
    done
    $ctr task exec --exec-id e4 d sh -c "$many" 2>&1
)" 'Cannot fork'
$ctr task kill -s KILL d
gone d
$ctr task delete d 2>/dev/null
$ctr containers rm d
is 'no task left' "$($ctr task ls -q)" ''
is 'no container left' "$($ctr containers ls -q)" ''
is 'no cgroup left' "$(find /sys/fs/cgroup -type d -path '*/default/*')" ''
