# SPDX-License-Identifier: Apache-2.0
# resets.sh: a guest of QEMU's that has itself reset twice, under attach.
mkdir -p /lib64
ln -s /qemu/ld-linux-x86-64.so.2 /lib64/
LD_LIBRARY_PATH=/qemu /bin/vmtally attach --collector bpf --from-start -i 60 --json /tmp/attach.json -- \
	/qemu/qemu-system-x86_64 -L /qemu/share -accel kvm -cpu host -M pc -m 16 -nodefaults -no-user-config -display none \
	-bios /guest/reset -device isa-debug-exit,iobase=0xf4,iosize=4
echo "status $?"
echo "attach $(cat /tmp/attach.json)"
