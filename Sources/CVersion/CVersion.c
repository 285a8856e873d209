/* SPDX-License-Identifier: Apache-2.0 */
#include "CVersion.h"

#ifndef VMTALLY_COMMIT
#define VMTALLY_COMMIT ""
#endif

const char *vmtally_commit(void)
{
	return VMTALLY_COMMIT;
}
