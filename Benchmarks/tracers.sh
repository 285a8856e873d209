# SPDX-License-Identifier: Apache-2.0
# tracers.sh FOLDER TOOLS ROUNDS EXITS GUESTS TRACER...: runs the storms of FOLDER under each tracer in turn. TOOLS is a root
# with the others' programs in it, or TOOLS.tar. Run by beside-tracers, here or in the lab.
# Each run is a line: storm TRACER GUEST NS EXITS.
folder=$1 tools=$2 rounds=$3 exits=$4 guests=$5
shift 5
if [ -e "$tools.tar" ]; then
	mkdir "$tools"
	tar -xf "$tools.tar" -C "$tools" && rm "$tools.tar"
	mkdir -p "$tools/proc" "$tools/sys" "$tools/dev" "$tools/lib/modules/$(uname -r)" "$tools/var/lib"
	# Where bcc looks for kernel headers.
	mv "$folder/build" "$folder/source" "$tools/lib/modules/$(uname -r)/"
fi
# bpftrace 0.17 wants it below debugfs.
[ -e /sys/kernel/tracing/events ] || mount -t tracefs none /sys/kernel/tracing
[ -e /sys/kernel/debug/tracing/events ] || mount -t debugfs none /sys/kernel/debug
ls /sys/kernel/debug/tracing/events >/dev/null
for mount in proc sys dev; do mount --rbind "/$mount" "$tools/$mount"; done
events=/sys/kernel/tracing/events/kvm
lab=
! grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo || lab=1
[ ! -e "$folder/vmtally.ko" ] || insmod "$folder/vmtally.ko"

begin() {
	case $1 in
	none) return ;;
	attach-bpf) vmtally attach all --collector bpf >/tmp/tracer.log 2>&1 & ;;
	attach-module) vmtally allow all >/dev/null && { vmtally attach all --collector module >/tmp/tracer.log 2>&1 & } ;;
	trigger)
		echo 'hist:keys=exit_reason' >$events/kvm_exit/trigger
		return ;;
	kvmexit)
		# Made for Intel, whose reasons are below 69, and for the raw tracepoint's arguments of older kernels.
		sed 's/b"Intel"/b"AMD"/; s/REASON_NUM 69/REASON_NUM 250/; s/BPF.support_raw_tracepoint_in_module()/False/' "$tools/usr/sbin/kvmexit-bpfcc" >"$tools/tmp/kvmexit"
		chroot "$tools" python3 /tmp/kvmexit >/tmp/tracer.log 2>&1 & ;;
	bpftrace)
		program='tracepoint:kvm:kvm_exit { @from[tid] = nsecs; @why[tid] = args->exit_reason; }
			tracepoint:kvm:kvm_entry /@from[tid]/ { @[@why[tid]] = hist(nsecs - @from[tid]); delete(@from[tid]); }'
		[ -n "$lab" ] || program='tracepoint:kvm:kvm_userspace_exit { @from[tid] = nsecs; @why[tid] = args->reason; }
			tracepoint:syscalls:sys_enter_ioctl /@from[tid]/ { @[@why[tid]] = hist(nsecs - @from[tid]); delete(@from[tid]); }'
		chroot "$tools" bpftrace -e "$program" >/tmp/tracer.log 2>&1 & ;;
	perf)
		if [ -n "$lab" ]; then chroot "$tools" perf kvm --host stat record -a -o /tmp/perf.data >/tmp/tracer.log 2>&1 &
		else chroot "$tools" perf record -q -a -e kvm:kvm_userspace_exit -o /tmp/perf.data >/tmp/tracer.log 2>&1 & fi ;;
	esac
	tracer=$!
	sleep "$patience"
	kill -0 "$tracer" || { cat /tmp/tracer.log; exit 1; }
}

end() {
	case $1 in
	none) return ;;
	trigger)
		echo '!hist:keys=exit_reason' >$events/kvm_exit/trigger
		return ;;
	esac
	# A shell without job control has its children ignore SIGINT, and Python leaves it at that.
	signal=INT
	[ "$1" != kvmexit ] || signal=TERM
	kill -$signal "$tracer"
	wait "$tracer"
	[ "$1" != attach-module ] || vmtally allow none >/dev/null
	rm -f "$tools/tmp/perf.data"
}

patience=2
[ -z "$lab" ] || patience=20
for round in $(seq "$rounds"); do
	for tracer_name; do
		begin "$tracer_name"
		for guest in $guests; do
			vmtally run --guest "$folder/storm-$guest" --live-cpuid off --quiet --stats-json /tmp/run.json </dev/null
			echo "storm $tracer_name $guest $(sed 's/.*"wall_ns":\([0-9]*\).*/\1/' /tmp/run.json) $exits"
		done
		end "$tracer_name"
		[ "$round" != 1 ] || [ "$tracer_name" = none ] || [ "$tracer_name" = trigger ] || tail -n 3 /tmp/tracer.log | sed "s/^/$tracer_name: /"
	done
done
