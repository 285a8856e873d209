# page.sh CPUS READINGS APPEND: the tally page inside a Linux guest: /page, and the probe on a program that makes 1,234
# exits. In the tree of the guest's memory the page is ACPI's, and the kernel does not call it uncached. What is said goes
# into a file first: a console that still drains makes exits of its own meanwhile.
cat >/tmp/run <<X
exec 3>&1 >/tmp/said 2>&1
grep VMTL0001 /proc/iomem
dmesg | grep -i -m 1 'x86/PAT'
/page $2
/page since
for i in 1 2 3; do vmtally-probe exec --json -- /known; done
vmtally-probe exec --json --via cpuid -- /known
vmtally-probe exec --json --cpu $(($1 - 1)) -- /known
vmtally-probe | head -1
/page drop /bin/vmtally-probe --json
echo "nobody \$?"
/page drop /bin/vmtally-probe --via page
echo "nobody by the page \$?"
vmtally-probe --json
cat /tmp/said >&3
X
cp /page /known /tmp
(cd /tmp && printf '%s\n' run page known | cpio -o -H newc 2>/dev/null | gzip >run.gz)
cat /guest/initrd /tmp/run.gz >/tmp/initrd
/bin/vmtally run --kernel /guest/vmlinuz --initrd /tmp/initrd --memory 256 --cpus "$1" \
	--append "console=ttyS0 quiet $3" --timeout 300 --stats-json /tmp/stats </dev/null
echo "status $?"
echo "stats $(cat /tmp/stats)"
