# joined.sh ours|module QUERY: what `vmtally top` counts of a VM whose guest rests, and what the guest itself has read.
# Ours: our VMM answers, its userspace exits. Module: vmtally.ko answers any guest, VM exits. QUERY is the address of the
# guest's CPUID.
# SPDX-License-Identifier: Apache-2.0
status=0
same() {
	if [ "$2" = "$3" ]; then echo "ok    $1: guest and top say $2"; else echo "FAIL  $1: guest $2, top $3"; status=1; fi
}
if [ "$1" = module ]; then
	insmod /vmtally.ko && echo "allow all" >/dev/vmtally || exit 1
	how="--live-cpuid off" form=--csv
else
	how="--live-cpuid sites --cpuid-site query=$2" form=--json
fi
/bin/vmtally top --batch $form=/tmp/top -i 0.2 &
until [ -s /tmp/top ]; do usleep 300000; done
# shellcheck disable=SC2086 # words
/bin/vmtally run --guest /guest/joined --irqchip kernel $how --quiet --serial file=/tmp/read &
vm=$!
until [ "$(cat /tmp/read 2>/dev/null | wc -c)" = 24 ]; do usleep 300000; done
# Exits by reason. Ours: of its busiest thread, for the trial of live CPUID makes a VM of its own, in a thread of its own.
count() {
	if [ $form = --csv ]; then
		awk -F , -v pid=$vm '$3 == pid { n[$4 " " $5] += $6 } END { for (reason in n) print reason, n[reason] }' /tmp/top
	else
		grep -o '"thread":[0-9]*,"userspace_exits":{"count":[0-9]*' /tmp/top | tr -c '0-9\n' ' ' |
			awk '{ n[$1] += $2; if (n[$1] > most) most = n[$1] } END { print "userspace", most }'
	fi
}
of() { count | sed -n "s/^$1 //p"; }
# Until top's next intervals bring nothing more.
last='' steady=0
while [ $steady -lt 5 ]; do
	usleep 500000
	now=$(count)
	if [ -n "$now" ] && [ "$now" = "$last" ]; then steady=$((steady + 1)); else steady=0; fi
	last=$now
done
count
mode=$1
# shellcheck disable=SC2046 # words
set -- $(od -An -v -tu4 /tmp/read)
# 24 bytes come after the readings; a reading's own CPUID is in its count, those after it are not.
if [ "$mode" = ours ]; then
	same "userspace exits" $(($6 + 24)) "$(of userspace)"
elif grep -qw svm /proc/cpuinfo; then
	same "exits by OUT" $(($3 + 24)) "$(of 'vm SVM_EXIT_IOIO')"
	same "exits by CPUID" $(($5 + 1)) "$(of 'vm SVM_EXIT_CPUID')"
else
	same "exits by OUT" $(($2 + 24)) "$(of 'vm EXIT_REASON_IO_INSTRUCTION')"
	same "exits by CPUID" $(($4 + 2)) "$(of 'vm EXIT_REASON_CPUID')"
fi
kill $vm %1
exit $status
