# SPDX-License-Identifier: Apache-2.0 OR MIT
set -u
work=$(mktemp -d /host/var/tmp/stos-engines-XXXXXX)
# Users of a namespace of their own have to get in.
chmod 755 "$work"
ended() {
    eval "${cleanup-}"
    # What an engine keeps mounted goes with our mount namespace; what it keeps running does not.
    for pid in ${pids-}; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done
    if [ -n "${hugetlb-}" ]; then
        # crun leaves cgroups of a create that has failed, and with them the hierarchy would stay.
        find /sys/fs/cgroup/hugetlb -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null
        umount /sys/fs/cgroup/hugetlb
    fi
    rm -rf "$work"
}
trap ended EXIT
if [ ! -f /sys/fs/cgroup/cgroup.controllers ] && [ ! -f /sys/fs/cgroup/hugetlb/tasks ]; then
    mkdir -p /sys/fs/cgroup/hugetlb
    # The hierarchy of one who had it before goes some time after its last cgroup.
    for _ in $(seq 100); do
        mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb 2>/dev/null && hugetlb=yes && break
        sleep 0.1
    done
    [ -n "${hugetlb-}" ] || { echo 'the hugetlb hierarchy cannot be mounted'; exit 1; }
fi
# is WHAT FOUND EXPECTED
is() {
    if [ "$2" != "$3" ]; then echo "$1: expected <$3>, found <$2>"; exit 1; fi
    echo "$1: $2"
}
# has WHAT FOUND PART
has() {
    case $2 in *"$3"*) echo "$1: $3" ;; *) echo "$1: expected something with <$3>, found <$2>"; exit 1 ;; esac
}
