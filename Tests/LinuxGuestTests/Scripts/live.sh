# live.sh CPUS: Debian's cpuid and our probe inside the Linux guest, live.
cat >/tmp/run <<'X'
for i in 1 2 3; do cpuid -1 -r -l 0x4FFFFFFF | tail -1; done
vmtally-probe exec -- sh -c 'exit 7'
echo "probe $?"
X
(cd /tmp && echo run | cpio -o -H newc 2>/dev/null | gzip >run.gz)
cat /guest/initrd /tmp/run.gz >/tmp/initrd
/bin/vmtally run --kernel /guest/vmlinuz --initrd /tmp/initrd --memory 256 --cpus "$1" --append 'console=ttyS0 quiet' \
	--timeout 200 </dev/null
echo "status $?"
