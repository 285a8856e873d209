// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Counts VM exits by the guest's RIP. A tracepoint's record, not a raw tracepoint: on Intel the RIP is in the VMCS, and
 * KVM reads it for the record alone.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "exits.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct vmtally_rip_config config;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct vmtally_rip_key);
	__type(value, __u64);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

SEC("tp/kvm/kvm_exit")
int on_exit_record(void *record)
{
	struct vmtally_rip_key key = {.tgid = bpf_get_current_pid_tgid() >> 32};
	__u64 *count, one = 1;
	__u32 zero = 0;

	if (config.only_tgid && key.tgid != config.only_tgid)
		return 0;
	bpf_probe_read_kernel(&key.code, sizeof(key.code), record + config.reason_field);
	bpf_probe_read_kernel(&key.rip, sizeof(key.rip), record + config.rip_field);
	count = bpf_map_lookup_elem(&places, &key);
	if (count) {
		++*count;
	} else if (bpf_map_update_elem(&places, &key, &one, BPF_NOEXIST)) {
		/* Another CPU was quicker, or there is no room. */
		count = bpf_map_lookup_elem(&places, &key);
		if (!count)
			count = bpf_map_lookup_elem(&lost, &zero);
		if (count)
			++*count;
	}
	return 0;
}
