/* SPDX-License-Identifier: Apache-2.0 */
/* ncurses, with the calls for wide characters. */
#ifndef VMTALLY_CNCURSES_H
#define VMTALLY_CNCURSES_H

#define _XOPEN_SOURCE 700
#define NCURSES_WIDECHAR 1
#include <ncurses.h>

#endif
