# live.sh CPUS APPEND WAY: Debian's cpuid, our probe, /stress and /page inside the Linux guest, live. WAY kernel-live puts a
# breakpoint on the kernel's own CPUID: the host runs the same kernel without KASLR, so its symbols are the guest's. With
# it virtio notifications are exits, with kernel-same they are not. What is said goes into a file first: a console that
# still drains makes exits of its own meanwhile.
cat >/tmp/run <<X
exec 3>&1 >/tmp/said 2>&1
echo "pti \$(grep -c -w -m 1 pti /proc/cpuinfo), kernel at \$(awk '/Kernel code/ { print \$1 }' /proc/iomem)," \
	"\$(awk '\$3 == "_text" { print \$1 }' /proc/kallsyms)"
for i in 1 2 3; do cpuid -1 -r -l 0x4FFFFFFF | tail -1; done
vmtally-probe exec --via cpuid -- sh -c 'exit 7'
echo "probe \$?"
vmtally-probe exec -- sh -c 'kill -TERM \$\$'
echo "probe killed \$?"
vmtally-probe exec -- /none
echo "probe without a command \$?"
vmtally-probe watch --count 2 --interval 2 --cpu 0 --json --via cpuid
vmtally-probe --cpu 0
/page 20000
/page since
vmtally-probe exec --json -- /known
requests() { awk '{ print \$1 }' /sys/block/vda/stat; }
interrupts() { awk '/virtio/ { for (i = 2; i < 2 + $1; i++) sum += \$i } END { print sum + 0 }' /proc/interrupts; }
r=\$(requests) i=\$(interrupts)
vmtally-probe exec --json -- dd if=/dev/vda of=/dev/null bs=4k 2>/tmp/dd
cat /tmp/dd
echo "dd: \$((\$(requests) - r)) requests, \$((\$(interrupts) - i)) interrupts," \
	"\$(sed -n 's/.*"KVM_EXIT_MMIO","count":\([0-9]*\).*/\1/p' /tmp/dd) MMIO exits"
/stress $3 /compat
cat /tmp/said >&3
X
cp /stress /compat /page /known /proc/kallsyms /tmp
(cd /tmp && printf '%s\n' run stress compat page known | cpio -o -H newc 2>/dev/null | gzip >run.gz)
cat /guest/initrd /tmp/run.gz >/tmp/initrd
truncate -s 1M /tmp/disk
case $3 in
kernel-live) options="--ioeventfd off --cpuid-site native_cpuid --symbols /tmp/kallsyms" ;;
*) options="--ioeventfd on" ;;
esac
/bin/vmtally run --kernel /guest/vmlinuz --initrd /tmp/initrd --memory 256 --cpus "$1" --disk /tmp/disk \
	--append "console=ttyS0 quiet $2" $options --timeout 3000 </dev/null
echo "status $?"
