# SPDX-License-Identifier: Apache-2.0
# One page of generate-manual's, with the names and the statuses of this program.
function include(file,  line) { while ((getline line < file) > 0) print line; close(file) }
/^\.Dt / { print ".Dt " toupper(name) " 1"; next }
/^\.Sh SYNOPSIS/ { synopsis = 1 }
/^\.Sh DESCRIPTION/ { synopsis = 0 }
/^\.Nm / && !named { command = $0; named = 1; print ".Nm " name; next }
/^\.Nm$/ && synopsis { print command; next }
/^\.Nd / { gsub(/"/, ""); sub(/\.$/, ""); print; next }
/^\.Sh "?EXIT STATUS/ && name == "vmtally" { print ".Sh COMMANDS\n.Bl -tag -width 18n\n" ENVIRON["commands"] "\n.El" }
/^\.Ex -std/ { include(statuses); next }
# The others are in vmtally(1).
/^\.Xr vmtally\./ { next }
/^\.Sh "?SEE ALSO/ { print; print ".Xr vmtally-probe 1 ,\n.Xr vmtally-lab 1 ,\n.Xr vmtally-guest 1"; next }
{ print }
END { if (name != "vmtally") print ".Sh SEE ALSO\n.Xr vmtally 1" }
