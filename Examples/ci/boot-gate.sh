#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# boot-gate.sh BASELINE NEW: the part of a CI job that decides. Fails when the boot of NEW makes 2 % more exits than that of
# BASELINE, by more than chance; and when that could not be judged: a gate does not pass because it could not see.
set -u

baseline=${1:?usage: boot-gate.sh BASELINE NEW} new=${2:?usage: boot-gate.sh BASELINE NEW}
vmtally compare "$baseline" "$new" --fail-above "${FAIL_ABOVE:-2%}" --html comparison.html
status=$?
case $status in
0) echo "boot: no regression" ;;
2) echo "boot: more exits than $baseline; comparison.html has what, and where" ;;
3) echo "boot: not judged: make more runs, or record the baseline anew" ;;
*) echo "boot: vmtally compare failed" ;;
esac
exit "$status"
