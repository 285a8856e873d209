# asked.sh: what people asked for, in a host whose KVM maps memory ahead (Linux 6.11).
boot="/bin/vmtally boot --runs 1 --kernel /guest/vmlinuz --initrd /guest/initrd --append nohz=off --no-log"
for options in "" --prefault; do
	echo "=== prefault${options#--prefault}"
	# shellcheck disable=SC2086
	$boot $options --quiet -o - 2>&1 | sed 's/.*"configurations"/"configurations"/' | grep -o '"name":"console[^"]*"\|"SVM_EXIT_[A-Z]*":[0-9]*'
	echo "option '$options' done"
done
echo "=== places"
/bin/vmtally run --kernel /guest/vmlinuz --initrd /guest/initrd --memory 256 --live-cpuid off --prefault \
	--by port 100 msr 100 address 100 --json /tmp/json --quiet \
	--append 'console=ttyS0 quiet nohz=off -- vmtally-probe features; exit 124' </dev/null
echo "status $?"
cat /tmp/json
