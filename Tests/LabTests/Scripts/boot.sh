# boot.sh [64]: boots Linux guests in an emulated host, one after the other; with 64 one of 64 processors alone. For each:
# what it says, how it ends, the JSON, and the kernel's own counts beside it.
# nohz=off: QEMU's VMRUN loses the shadow of STI (docs/lab.md), and with it a halted guest's wake-up; the next tick makes
# up for it.
events=/sys/kernel/tracing/events/kvm
initrd=/guest/initrd
timeout=1500

# What is resident of the VMM beside the guest's RAM of 256 MiB, when a guest that will wait a moment has said READY.
resident() {
	case $1 in
	*READY*)
		awk '/^[0-9a-f]+-[0-9a-f]+ / { ram = 0 } $1 == "Size:" { ram = $2 >= 200 * 1024 }
			$1 == "Rss:" { if (ram) touched += $2; else own += $2 }
			$1 == "AnonHugePages:" && !ram { huge += $2 }
			END { print "resident " own " KiB, " huge + 0 " of them huge pages, guest " touched " KiB" }' "/proc/$(pidof vmtally)/smaps"
		;;
	esac
}

boot() {
	name=$1 kernel=$2 append="nohz=off $3"
	shift 3
	echo "=== $name"
	echo hist:keys=reason,errno >$events/kvm_userspace_exit/trigger
	echo hist:keys=exit_reason >$events/kvm_exit/trigger
	{
		/bin/vmtally run --kernel "/guest/$kernel" --initrd $initrd --memory 256 --append "$append" "$@" \
			--live-cpuid off --stats-json /tmp/json --timeout $timeout --quiet </dev/null
		echo "status $?"
	} | while IFS= read -r line; do
		echo "$line"
		resident "$line"
	done
	echo "json $(cat /tmp/json)"
	sed -n 's/.*reason: *\([0-9-]*\).*errno: *\([0-9-]*\).*hitcount: *\([0-9]*\)/traced \1 \2 \3/p' \
		$events/kvm_userspace_exit/hist
	echo "kvm_exit $(awk '/Hits:/ { print $2 }' $events/kvm_exit/hist)"
	echo '!hist:keys=reason,errno' >$events/kvm_userspace_exit/trigger
	echo '!hist:keys=exit_reason' >$events/kvm_exit/trigger
}
say='echo READY $(grep -c ^processor /proc/cpuinfo) CPUs'
clock='cat /sys/devices/system/clocksource/clocksource0/current_clocksource; grep "  0:" /proc/interrupts'
if [ "${1-}" = 64 ]; then
	timeout=1500
	boot serial-64 vmlinuz "console=ttyS0 quiet -- $say" --cpus 64
	exit
fi
wait="$say; sleep 1"
boot serial-1 vmlinuz "console=ttyS0 quiet -- $wait"
boot serial-4 vmlinuz "console=ttyS0 quiet -- $wait" --cpus 4 --by-rip 5
boot virtio-1 vmlinuz "console=hvc0 quiet -- $wait" --console virtio
boot virtio-4 vmlinuz "console=hvc0 quiet -- $wait" --console virtio --cpus 4
# Where the kernel's names lie is another place than 6.1's.
boot linux-6.12 vmlinuz-6.12 "console=ttyS0 quiet -- $say" --cpus 4 --by-rip 5
boot virtio-split vmlinuz "console=hvc0 quiet -- $say" --console virtio --irqchip split
boot split-4 vmlinuz "console=ttyS0 quiet -- $say" --cpus 4 --irqchip split
boot full vmlinuz "console=ttyS0 quiet clocksource=acpi_pm lapic=notscdeadline nolapic_timer -- $say; $clock" --acpi full
loader='echo loader $(cat /proc/sys/kernel/bootloader_type)'
boot pvh vmlinux "console=ttyS0 quiet -- $say; $loader"
boot vmlinux vmlinux-64 "console=ttyS0 quiet -- $say; $loader"
for way in acpi kbd triple pci; do
	boot "reset-$way" vmlinuz "console=ttyS0 quiet reboot=$way -- $say; reboot -f"
done
# Disks, one of them read-only, entropy, and a card on a tap interface that is up, and has frames waiting, before there is
# a guest.
cat >/tmp/run <<'X'
dd if=/dev/urandom of=/tmp/data bs=4k count=64 2>/dev/null
dd if=/tmp/data of=/dev/vda bs=4k conv=fsync 2>/dev/null
[ "$(awk '{ print $16 }' /sys/block/vda/stat)" -gt 0 ] && echo flushed
echo 3 >/proc/sys/vm/drop_caches
head -c 262144 /dev/vda | cmp - /tmp/data && echo disk reads what was written
blkdiscard -o 65536 -l 131072 /dev/vda
[ "$(awk '{ print $12 }' /sys/block/vda/stat)" -gt 0 ] && echo discarded
echo 3 >/proc/sys/vm/drop_caches
echo zeroes $(dd if=/dev/vda bs=4k skip=16 count=32 2>/dev/null | tr -d '\000' | wc -c)
dd if=/dev/zero of=/dev/vdb count=1 2>/dev/null || echo read-only $(cat /sys/block/vdb/ro)
echo entropy $(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c)
ip addr add 192.168.77.2/24 dev eth0
ip link set eth0 up
ping -c 5 -i 0.2 192.168.77.1
echo READY $(grep -c ^processor /proc/cpuinfo) CPUs
X
(cd /tmp && echo run | cpio -o -H newc 2>/dev/null | gzip >run.gz)
cat /guest/initrd /tmp/run.gz >/tmp/initrd
insmod /guest/tun.ko
tunctl -t tap0 >/dev/null
ip addr add 192.168.77.1/24 dev tap0
ip link set tap0 up
truncate -s 1M /tmp/disk /tmp/other
initrd=/tmp/initrd
boot devices vmlinuz "console=ttyS0 quiet" --disk /tmp/disk --disk /tmp/other,ro --rng --net tap=tap0
echo "disk of $(du -k /tmp/disk | cut -f 1) KiB"
initrd=/guest/initrd
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
