# idt.sh GUEST...: runs bare-metal guests that change their IDT; a line for each.
for guest; do
	/bin/vmtally run --guest "/$guest" --timeout 1500 >/tmp/said 2>&1
	echo "$guest status $? answered $(sed -n 's/.*leaf 0x4FFFFFFF: .*, \([0-9,]*\) answered live.*/\1/p' /tmp/said | tr -d ,)"
done
