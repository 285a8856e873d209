# boot.sh CPUS CONSOLE: boots the Linux guest in an emulated host, and sets our count of userspace exits beside that of
# the kernel's tracepoint.
cpus=$1 console=$2
device=ttyS0
[ "$console" = serial ] || device=hvc0
trace=/sys/kernel/tracing/events/kvm/kvm_userspace_exit
echo hist:keys=reason >$trace/trigger
/bin/vmtally run --kernel /guest/vmlinuz --initrd /guest/initrd --memory 256 --cpus "$cpus" --console "$console" \
	--append "console=$device quiet -- echo READY \$(grep -c ^processor /proc/cpuinfo) CPUs" --live-cpuid off \
	--stats-json /tmp/json --timeout 200 --quiet </dev/null
echo "status $?"
echo "reason $(sed 's/.*"status":{[^}]*"reason":"\([^"]*\)".*/\1/' /tmp/json)"
ours=$(sed 's/.*"total":{"count":\([0-9]*\).*/\1/' /tmp/json)
traced=$(awk '/Hits:/ { print $2 }' $trace/hist)
echo "exits $ours"
[ "$ours" = "$traced" ] && echo "traced the same" || echo "traced $traced"
# The same guest by the boot protocol: the tracepoints' sum is KVM's own, or boot says that it is not.
if [ "$console" = virtio ]; then
	/bin/vmtally boot --runs 1 --kernel /guest/vmlinuz --initrd /guest/initrd --console virtio --no-log -o /tmp/boot.json 2>&1
	echo "boot status $?"
	cat /tmp/boot.json
fi
