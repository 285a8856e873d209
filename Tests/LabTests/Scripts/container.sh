# SPDX-License-Identifier: Apache-2.0
# container.sh FOLDER CAPABILITIES PROGRAM [ARGUMENT...]: runs PROGRAM as root in a container with the host's pid namespace
# is: of all capabilities those (+bpf,+perfmon), a root of its own, /proc, a /sys that is read only, neither tracefs nor
# debugfs, its own cgroup, mount, IPC, network and UTS namespaces, and a pod's cgroup, as Kubernetes' cgroupfs driver names
# them. While it runs, the process $VM is in another pod's.
set -eu
root=$1/root capabilities=$2
shift 2
if [ "${inside:-}" ]; then
	mount --make-rprivate /
	mkdir -p "$root"
	mount -t tmpfs none "$root"
	cd "$root"
	mkdir proc sys dev image old
	for folder in bin lib lib64 sbin usr; do mkdir $folder && mount --bind -o ro /$folder $folder; done
	mount --bind -o ro "${1%/*}" image
	mount -t proc proc proc
	mount -t sysfs -o ro sysfs sys
	touch dev/null && mount --bind /dev/null dev/null
	pivot_root . old
	cd /
	umount -l old
	program=/image/${1##*/}
	shift
	exec setpriv --bounding-set=-all,$capabilities --inh-caps=-all,$capabilities --no-new-privs "$program" "$@"
fi
mkdir -p "$root" "$root.cgroup"
mount -t cgroup2 none "$root.cgroup"
kubepods=$root.cgroup/vmtally-$$/kubepods
vm=$kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/vm
observer=$kubepods/besteffort/podffffffff-1111-2222-3333-444455556666/observer
mkdir -p "$vm" "$observer"
home=$root.cgroup$(sed -n 's/^0:://p' /proc/$VM/cgroup)
clean() {
	echo $VM >"$home/cgroup.procs"
	echo $$ >"$home/cgroup.procs"
	cd "$root.cgroup/vmtally-$$" && find . -depth -type d -exec rmdir {} \; 2>/dev/null
	cd / && rmdir "$root.cgroup/vmtally-$$" 2>/dev/null
	umount "$root.cgroup"
}
trap clean EXIT
echo $VM >"$vm/cgroup.procs"
echo $$ >"$observer/cgroup.procs"
inside=1 unshare --mount --uts --ipc --net --cgroup bash "$0" "${root%/root}" $capabilities "$@"
