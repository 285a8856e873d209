// SPDX-License-Identifier: GPL-2.0
/*
 * Counts and times the VM exits of the VMs that root allows, and lets these VMs' guests read their
 * tally with CPUID leaf 0x4fffffff.  See README.md.
 */
#include <linux/module.h>

#include "vmtally.h"

static int __init vmtally_init(void)
{
	int r;

	vmtally_accounts_init();
	r = vmtally_hooks_init();
	if (r)
		return r;
	r = vmtally_device_init();
	if (r)
		vmtally_hooks_exit();
	return r;
}

static void __exit vmtally_exit(void)
{
	vmtally_device_exit();
	vmtally_vms_exit();
	vmtally_hooks_exit();
}

module_init(vmtally_init);
module_exit(vmtally_exit);
MODULE_DESCRIPTION("Counts and times VM exits; guests read their own with CPUID 0x4fffffff");
MODULE_AUTHOR("vmtally developers");
MODULE_LICENSE("GPL");
