// SPDX-License-Identifier: GPL-2.0
/*
 * Linked to kernel-patch/tests/check.c (ld --wrap): adds to a vCPU's KVM_GET_STATS_FD what the patched
 * kernel would have there, from /dev/vmtally.  So the checks of the series judge the module, unchanged.
 *
 * KVM's own statistics are passed on as they are.  A VM that is not allowed has these alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../vmtally_uapi.h"

#define MAX_FD		4096
#define NR_SLOTS	174
#define NAME_SIZE	48

int __real_ioctl(int fd, unsigned long request, void *argument);
ssize_t __real_pread(int fd, void *to, size_t n, off_t at);

static struct descriptor {
	enum { OTHER, VM, VCPU, STATS } kind;
	int of;			/* a vCPU's VM, a file of statistics' vCPU */
	unsigned int index;	/* of a vCPU in its VM */
	unsigned int nr_vcpus;
	int data;		/* of a VM, from VMTALLY_OPEN_VM; 0: none */
} fds[MAX_FD];

static void give_up(int line)
{
	printf("FAIL: shim.c:%d: data that does not fit: %s\n", line, strerror(errno));
	exit(1);
}

static uint64_t newest;		/* VM of ours in /dev/vmtally's list */

/* After the first vCPU of a VM: the VM that is new in the list is this one. */
static int open_data(void)
{
	char line[256], *at;
	FILE *list = fopen("/dev/vmtally", "r");
	uint64_t id = 0;
	int data = 0;

	if (!list)
		return 0;
	while (fgets(line, sizeof(line), list)) {
		unsigned long long n;
		int pid;

		if (sscanf(line, "vm %llu pid %d", &n, &pid) == 2 && pid == getpid() && n > id)
			id = n;
	}
	at = id > newest ? "new" : NULL;
	if (at) {
		newest = id;
		data = __real_ioctl(fileno(list), VMTALLY_OPEN_VM, &id);
	}
	fclose(list);
	return data > 0 ? data : 0;
}

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
	int r = __real_ioctl(fd, request, argument);

	if (r < 0 || r >= MAX_FD || fd < 0 || fd >= MAX_FD)
		return r;
	switch (request) {
	case KVM_CREATE_VM:
		if (fds[r].data)
			close(fds[r].data);
		fds[r] = (struct descriptor){ .kind = VM };
		break;
	case KVM_CREATE_VCPU:
		fds[r] = (struct descriptor){ .kind = VCPU, .of = fd, .index = fds[fd].nr_vcpus++ };
		if (!fds[r].index)
			fds[fd].data = open_data();
		break;
	case KVM_GET_STATS_FD:
		if (fds[fd].kind == VCPU)
			fds[r] = (struct descriptor){ .kind = STATS, .of = fd };
		break;
	}
	return r;
}

static const struct {
	const char *name;
	int size;
} names[] = {
	{ "exit_acct_exits", 1 },
	{ "exit_acct_cycles", 1 },
	{ "exit_acct_guest_cycles", 1 },
	{ "exit_acct_blocked_cycles", 1 },
	{ "exit_acct_userspace_cycles", 1 },
	{ "exit_acct_reentered_exits", 1 },
	{ "exit_acct_no_entry_exits", 1 },
	{ "exit_acct_l2_exits", 1 },
	{ "exit_acct_l2_cycles", 1 },
	{ "exit_acct_l2_reflected_exits", 1 },
	{ "exit_acct_vocabulary", 1 },
	{ "exit_acct_reason_exits", NR_SLOTS },
	{ "exit_acct_reason_cycles", NR_SLOTS },
};

#define NR_NAMES	(sizeof(names) / sizeof(names[0]))
#define NR_VALUES	(NR_NAMES - 2 + 2 * NR_SLOTS)

static int slot_of(uint32_t vocabulary, uint32_t code)
{
	if (vocabulary == 1)
		return code <= 85 ? (int)code : NR_SLOTS - 1;
	if (code <= 0xa6)
		return code;
	if (code - 0x400 < 4)
		return 0xa7 + code - 0x400;
	return code == 0xf0000000 ? 0xab : code == 0xffffffff ? 0xac : NR_SLOTS - 1;
}

static void read_module(int data, unsigned int index, uint64_t *value)
{
	struct vmtally_header h;
	struct vmtally_vcpu v;
	struct vmtally_reason r;
	off_t at;

	if (__real_pread(data, &h, sizeof(h), 0) != sizeof(h) || h.magic != VMTALLY_DATA_MAGIC)
		give_up(__LINE__);
	at = h.vcpu_offset + (off_t)index * h.vcpu_size;
	if (__real_pread(data, &v, sizeof(v), at) != sizeof(v))
		give_up(__LINE__);
	value[0] = v.exits + v.unseen;
	value[1] = v.time[VMTALLY_TIME_KERNEL] + v.time[VMTALLY_TIME_PREEMPTED];
	value[2] = v.time[VMTALLY_TIME_GUEST];
	value[3] = v.time[VMTALLY_TIME_BLOCKED];
	value[4] = v.time[VMTALLY_TIME_USERSPACE];
	value[6] = v.unseen;
	value[10] = h.vocabulary;
	for (uint32_t i = 0; i < v.nr_reasons; i++) {
		int slot;

		if (__real_pread(data, &r, sizeof(r), at + h.reason_offset + i * h.reason_size) != sizeof(r))
			give_up(__LINE__);
		slot = slot_of(h.vocabulary, r.code);
		value[11 + slot] += r.count;
		value[11 + NR_SLOTS + slot] += r.cycles;
	}
	/* What VMX cannot run has reason 33 in KVM, which makes no event of it. */
	value[11 + (h.vocabulary == 1 ? 33 : NR_SLOTS - 1)] += v.unseen;
}

ssize_t __wrap_pread(int fd, void *to, size_t n, off_t at)
{
	struct kvm_stats_header *h;
	const struct descriptor *vcpu;
	char kernels[65536], whole[65536];
	size_t size, data_size, used;
	ssize_t got;
	int data;

	if (fd < 0 || fd >= MAX_FD || fds[fd].kind != STATS)
		return __real_pread(fd, to, n, at);
	vcpu = &fds[fds[fd].of];
	data = fds[vcpu->of].data;
	if (!data)
		return __real_pread(fd, to, n, at);
	got = __real_pread(fd, kernels, sizeof(kernels), 0);
	h = (struct kvm_stats_header *)kernels;
	if (got < (ssize_t)sizeof(*h) || h->name_size > NAME_SIZE || got < (ssize_t)h->data_offset)
		give_up(__LINE__);
	size = sizeof(struct kvm_stats_desc) + h->name_size;
	data_size = got - h->data_offset;
	if (sizeof(*h) + (h->num_desc + NR_NAMES) * size + data_size + NR_VALUES * 8 > sizeof(whole))
		give_up(__LINE__);

	memset(whole, 0, sizeof(whole));
	memcpy(whole, h, sizeof(*h));
	h = (struct kvm_stats_header *)whole;
	h->num_desc += NR_NAMES;
	h->desc_offset = sizeof(*h);
	h->data_offset = h->desc_offset + h->num_desc * size;
	used = (h->num_desc - NR_NAMES) * size;
	memcpy(whole + h->desc_offset, kernels + ((struct kvm_stats_header *)kernels)->desc_offset, used);
	for (size_t i = 0, offset = data_size; i < NR_NAMES; i++) {
		struct kvm_stats_desc *d = (void *)(whole + h->desc_offset + used + i * size);

		d->offset = offset;
		d->size = names[i].size;
		if (strstr(names[i].name, "cycles"))
			d->flags = KVM_STATS_UNIT_CYCLES;
		strncpy((char *)(d + 1), names[i].name, h->name_size - 1);
		offset += names[i].size * 8;
	}
	memcpy(whole + h->data_offset, kernels + ((struct kvm_stats_header *)kernels)->data_offset, data_size);
	read_module(data, vcpu->index, (uint64_t *)(whole + h->data_offset + data_size));
	used = h->data_offset + data_size + NR_VALUES * 8;
	if (at < 0 || (size_t)at > used)
		return 0;
	if (n > used - at)
		n = used - at;
	memcpy(to, whole + at, n);
	return n;
}
