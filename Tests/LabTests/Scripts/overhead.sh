# SPDX-License-Identifier: Apache-2.0
# overhead.sh ROUNDS: what `vmtally attach all` adds to an exit, by storms of CPUIDs and OUTs with and without it in turn.
# With Lab/run svm --icount the clock counts instructions: 1 ns each.
storm() {
	/bin/vmtally run --guest "/guest/storm-$2" --live-cpuid off --quiet --stats-json /tmp/run.json
	echo "storm $2 $1 $(sed 's/.*"wall_ns":\([0-9]*\).*/\1/' /tmp/run.json) $(sed 's/.*"kernel":{[^}]*"exits":\([0-9]*\).*/\1/' /tmp/run.json)"
}
for round in $(seq "$1"); do
	for guest in cpuid out; do
		storm none $guest
		/bin/vmtally attach all --collector bpf >/tmp/attach.log 2>&1 &
		sleep 3
		storm attach $guest
		kill -INT $!
		wait $!
	done
done
tail -n 12 /tmp/attach.log
