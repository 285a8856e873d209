# unit-tests.sh NAME CPUS ...: runs kvm-unit-tests' images under vmtally; for each what failed, and the exit status.
# The number behind the name is kvmclock_test's: loops, 100 million by default. Others take none.
while [ $# -gt 1 ]; do
	echo "=== $1"
	/bin/vmtally run --multiboot "/unit-tests/$1.flat" --append "$1 1000" --cpus "$2" --memory 512 --live-cpuid off --quiet \
		--timeout 1500 </dev/null >/tmp/console 2>&1
	echo "status $?"
	grep -a '^FAIL\|^SUMMARY' /tmp/console
	shift 2
done
