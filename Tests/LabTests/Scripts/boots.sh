# boots.sh TIMES KERNEL CPUS...: boots Linux TIMES times with each number of processors; each boot asks for the tally
# three times in ring 3. A line a boot: what it said, and what it should not have said.
times=$1 kernel=$2
shift 2
cat >/tmp/run <<'X'
for i in 1 2 3; do cpuid -1 -r -l 0x4FFFFFFF | tail -1; done
dmesg | grep -E 'segfault|general protection|traps:|Oops|BUG:|WARNING:'
true
X
(cd /tmp && echo run | cpio -o -H newc 2>/dev/null | gzip >run.gz)
cat /guest/initrd /tmp/run.gz >/tmp/initrd
for cpus; do
	for boot in $(seq "$times"); do
		/bin/vmtally run --kernel "$kernel" --initrd /tmp/initrd --memory 256 --cpus "$cpus" \
			--append "console=ttyS0 panic=-1 quiet" --timeout 1500 </dev/null >/tmp/said 2>&1
		echo "boot $boot cpus $cpus status $?" \
			"readings $(sed -n 's/.*0x4fffffff 0x00: eax=\(0x[0-9a-f]*\).*/\1/p' /tmp/said | tr '\n' ' ')" \
			"$(grep -o '[0-9,]* answered live' /tmp/said)" \
			"$(grep -a -m 3 -E 'segfault|general protection|traps:|Oops|BUG:|WARNING:|panic -|time is up' /tmp/said)"
	done
done
