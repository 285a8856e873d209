# attach.sh COLLECTOR: counts one VM from its first exit to its end, beside histogram triggers of the kernel's own.
# SPDX-License-Identifier: Apache-2.0
events=/sys/kernel/tracing/events/kvm
exit_trigger=hist:keys=exit_reason:size=2048 user_trigger=hist:keys=reason,errno:size=2048
echo $exit_trigger >$events/kvm_exit/trigger
echo $user_trigger >$events/kvm_userspace_exit/trigger
/bin/vmtally attach --collector "$1" --from-start --json /tmp/attach.json -- \
	/bin/vmtally run --guest /guest/storm --live-cpuid off --quiet --stats-json /tmp/run.json
echo "status $?"
echo "attach $(cat /tmp/attach.json)"
echo "run $(cat /tmp/run.json)"
sed -n 's/{ exit_reason: *\([0-9]*\) } hitcount: *\([0-9]*\).*/traced \1 \2/p' $events/kvm_exit/hist
sed -n 's/{ reason: *\([0-9]*\), errno: *\(-*[0-9]*\) } hitcount: *\([0-9]*\).*/returned \1 \2 \3/p' \
	$events/kvm_userspace_exit/hist
echo "!$exit_trigger" >$events/kvm_exit/trigger
echo "!$user_trigger" >$events/kvm_userspace_exit/trigger
