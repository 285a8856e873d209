/* SPDX-License-Identifier: Apache-2.0 */
/* The commit that this was built from, as Package.swift has it from git. A target of its own: it is new with each commit. */
#ifndef CVERSION_H
#define CVERSION_H

/* Twelve digits, with "-modified" where files were changed since; empty without git. */
const char *vmtally_commit(void);

#endif
