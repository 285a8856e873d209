# totals.sh ROUNDS: boots one guest under several VMMs in turn; a line for each boot: VMM, VM exits, of them nested page
# faults, interrupts and CPUID, userspace exits, seconds. Counts are those of the tracepoints kvm_exit and
# kvm_userspace_exit, from the VMM's start to its end.
events=/sys/kernel/tracing/events/kvm
exit_trigger=hist:keys=exit_reason user_trigger=hist:keys=reason
mkdir -p /lib64
ln -s /qemu/ld-linux-x86-64.so.2 /lib64/
# SVM's exit codes; the lab's ground with Linux guests under other VMMs has no other.
of() { awk -v code="$1" '$3 == code { print $NF; found = 1 } END { if (!found) print 0 }' $events/kvm_exit/hist; }
hits() { awk '/Hits:/ { print $2 }' $events/$1/hist; }

boot() {
	name=$1
	shift
	echo $exit_trigger >$events/kvm_exit/trigger
	echo $user_trigger >$events/kvm_userspace_exit/trigger
	read -r before rest </proc/uptime
	timeout 1500 "$@" </dev/null >/tmp/console 2>&1
	status=$?
	read -r after rest </proc/uptime
	grep -aq ready /tmp/console || { echo "failed: $name, status $status"; cat /tmp/console; }
	echo "boot $name $(hits kvm_exit) $(of 1024) $(of 96) $(of 114) $(hits kvm_userspace_exit)" \
		"$(echo "$before $after" | awk '{ print $2 - $1 }')"
	echo "!$exit_trigger" >$events/kvm_exit/trigger
	echo "!$user_trigger" >$events/kvm_userspace_exit/trigger
}

serial='console=ttyS0 quiet'
virtio='console=hvc0 quiet virtio'
ours() {
	name=$1 append=$2
	shift 2
	boot "vmtally,$name" /bin/vmtally run --kernel /guest/vmlinuz --initrd /guest/totals --memory 256 \
		--append "$append" --live-cpuid off --quiet "$@"
}
qemu() {
	name=$1 append=$2
	shift 2
	boot "qemu,$name" env LD_LIBRARY_PATH=/qemu /qemu/qemu-system-x86_64 -L /qemu/share -accel kvm -cpu host -m 256 \
		-nodefaults -no-user-config -display none -no-reboot -kernel /guest/vmlinuz -initrd /guest/totals \
		-append "$append" "$@"
}
console='-device virtio-serial-device -device virtconsole,chardev=c -chardev stdio,id=c'
for round in $(seq "$1"); do
	ours serial "$serial"
	ours serial,split "$serial" --irqchip split
	ours virtio "$virtio" --console virtio
	ours virtio,split "$virtio" --console virtio --irqchip split
	# Without rtc=on this kernel asks 20,000 times for a clock that is not there.
	qemu microvm,serial "$serial" -M microvm,rtc=on -serial stdio
	qemu microvm,virtio "$virtio" -M microvm,rtc=on,isa-serial=off,pit=off,pic=off $console
	qemu pc,serial "$serial" -M pc -serial stdio
done
