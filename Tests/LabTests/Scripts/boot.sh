# boot.sh: boots Linux guests in an emulated host, one after the other. For each: what it says, how it ends, the JSON, and
# the kernel's own counts beside it.
# nohz=off: QEMU's VMRUN loses the shadow of STI (docs/lab.md), and with it a halted guest's wake-up; the next tick makes
# up for it.
events=/sys/kernel/tracing/events/kvm
boot() {
	name=$1 kernel=$2 append="nohz=off $3"
	shift 3
	echo "=== $name"
	echo hist:keys=reason,errno >$events/kvm_userspace_exit/trigger
	echo hist:keys=exit_reason >$events/kvm_exit/trigger
	/bin/vmtally run --kernel "/guest/$kernel" --initrd /guest/initrd --memory 256 --append "$append" "$@" \
		--live-cpuid off --stats-json /tmp/json --timeout 100 --quiet </dev/null
	echo "status $?"
	echo "json $(cat /tmp/json)"
	sed -n 's/.*reason: *\([0-9-]*\).*errno: *\([0-9-]*\).*hitcount: *\([0-9]*\)/traced \1 \2 \3/p' \
		$events/kvm_userspace_exit/hist
	echo "kvm_exit $(awk '/Hits:/ { print $2 }' $events/kvm_exit/hist)"
	echo '!hist:keys=reason,errno' >$events/kvm_userspace_exit/trigger
	echo '!hist:keys=exit_reason' >$events/kvm_exit/trigger
}
say='echo READY $(grep -c ^processor /proc/cpuinfo) CPUs'
clock='cat /sys/devices/system/clocksource/clocksource0/current_clocksource; grep "  0:" /proc/interrupts'
boot serial-1 vmlinuz "console=ttyS0 quiet -- $say"
boot serial-4 vmlinuz "console=ttyS0 quiet -- $say" --cpus 4 --by-rip 5
boot virtio-1 vmlinuz "console=hvc0 quiet -- $say" --console virtio
boot virtio-split vmlinuz "console=hvc0 quiet -- $say" --console virtio --irqchip split
boot split-4 vmlinuz "console=ttyS0 quiet -- $say" --cpus 4 --irqchip split
boot full vmlinuz "console=ttyS0 quiet clocksource=acpi_pm lapic=notscdeadline nolapic_timer -- $say; $clock" --acpi full
loader='echo loader $(cat /proc/sys/kernel/bootloader_type)'
boot pvh vmlinux "console=ttyS0 quiet -- $say; $loader"
boot vmlinux vmlinux-64 "console=ttyS0 quiet -- $say; $loader"
for way in acpi kbd triple pci; do
	boot "reset-$way" vmlinuz "console=ttyS0 quiet reboot=$way -- $say; reboot -f"
done
# By the boot protocol (docs/boot-protocol.md); a sum of the tracepoints that is not KVM's own would be said.
echo "=== protocol"
/bin/vmtally boot --runs 1 --kernel /guest/vmlinuz --initrd /guest/initrd --console virtio --append nohz=off \
	-o /tmp/boot.json 2>&1
echo "status $?"
cat /tmp/boot.json
# The same as another VMM's would be, by tracepoints alone.
echo "=== other"
/bin/vmtally boot --runs 1 --kernel /guest/vmlinuz --initrd /guest/initrd --console virtio --append nohz=off \
	--no-log -o /tmp/boot.json \
	--vmm '/bin/vmtally run --kernel {kernel} --initrd {initrd} --append {append} --memory {memory} --cpus {cpus} --console {console} --live-cpuid off --quiet' 2>&1
echo "status $?"
cat /tmp/boot.json
