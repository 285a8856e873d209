/* SPDX-License-Identifier: Apache-2.0 */
/* What ring 3 runs by guest_call_user: each function whole in the ring-3 page, none with data of its own. */
#include "GuestCPU.h"
#include "vmtally.h"

#define GUEST_USER(name) __attribute__((section(".user.text." #name), noinline, flatten)) static

GUEST_USER(page_total) struct guest_pair page_total(const struct vmtally_page *page)
{
	struct vmtally_pair total = vmtally_page_total(page);

	return (struct guest_pair){ total.count, total.cycles };
}

GUEST_USER(page_readings) struct guest_pair page_readings(const struct vmtally_page *page, uint64_t times)
{
	struct guest_pair result = { 0, 0 };
	uint64_t start = guest_tsc();

	while (times--)
		result.second = vmtally_page_total(page).count;
	result.first = guest_tsc() - start;
	return result;
}

GUEST_USER(leaf_readings) struct guest_pair leaf_readings(uint64_t times)
{
	struct guest_pair result = { 0, 0 };
	uint64_t start = guest_tsc();

	while (times--)
		result.second = vmtally_total(VMTALLY_THIS_VM).count;
	result.first = guest_tsc() - start;
	return result;
}

const void *guest_user_page_total(void)
{
	return (const void *)page_total;
}

const void *guest_user_page_readings(void)
{
	return (const void *)page_readings;
}

const void *guest_user_leaf_readings(void)
{
	return (const void *)leaf_readings;
}
