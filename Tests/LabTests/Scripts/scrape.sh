# SPDX-License-Identifier: Apache-2.0
# scrape.sh COLLECTOR: what a scrape of `vmtally export` says of one VM, beside a histogram trigger and KVM's statistics.
trigger=hist:keys=exit_reason:size=2048 events=/sys/kernel/tracing/events/kvm/kvm_exit
mkdir -p /lib64
ln -s /export/ld-linux-x86-64.so.2 /lib64/
ifconfig lo 127.0.0.1 up
LD_LIBRARY_PATH=/export /export/vmtally-export --collector "$1" &
until wget -qO /dev/null 2>/dev/null http://127.0.0.1:20479/metrics; do sleep 1; done
echo $trigger >$events/trigger
/bin/vmtally run --guest /guest/storm --live-cpuid off --quiet --stats-json /tmp/run.json
wget -qO- http://127.0.0.1:20479/metrics | grep '^vmtally_\(vm_exits\|lost_events\)_total'
sed -n 's/{ exit_reason: *\([0-9]*\) } hitcount: *\([0-9]*\).*/traced \1 \2/p' $events/hist
echo "kernel $(sed 's/.*"kernel":{[^}]*"exits":\([0-9]*\).*/\1/' /tmp/run.json)"
