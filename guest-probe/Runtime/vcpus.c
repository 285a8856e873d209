/* SPDX-License-Identifier: Apache-2.0 */
#include "GuestCPU.h"

static struct guest_mailbox mailboxes[GUEST_MAX_VCPUS];

struct guest_mailbox *guest_mailbox(uint32_t vcpu)
{
	return &mailboxes[vcpu % GUEST_MAX_VCPUS];
}
