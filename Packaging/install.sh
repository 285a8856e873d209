#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the files beside this script below a prefix, or removes what an earlier run of it installed there.
set -eu

usage() {
	echo "usage: install.sh [--prefix DIR] [--destdir DIR] [--uninstall]"
	echo "The prefix is /usr/local, unless given. A destdir is put before it, for packages."
}

prefix=/usr/local destdir= uninstall=
while [ $# -gt 0 ]; do
	case $1 in
	--prefix | --destdir)
		[ $# -ge 2 ] || { usage >&2; exit 64; }
		[ "$1" = --prefix ] && prefix=$2 || destdir=$2
		shift ;;
	--prefix=*) prefix=${1#*=} ;;
	--destdir=*) destdir=${1#*=} ;;
	--uninstall) uninstall=1 ;;
	--help) usage; exit ;;
	*) usage >&2; exit 64 ;;
	esac
	shift
done
case $prefix in
/*) ;;
*) echo "install.sh: --prefix takes an absolute path" >&2; exit 64 ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
to=$destdir$prefix
manifest=$to/share/vmtally/manifest

remove() {
	[ -e "$manifest" ] || return 0
	files=$(cat "$manifest")
	echo "$files" | while read -r file; do
		rm -f "$to/$file"
	done
	# Folders that nobody else has anything in.
	echo "$files" | sed -n 's|/[^/]*$||p' | sort -ru | while read -r folder; do
		(cd "$to" && rmdir -p "$folder" 2>/dev/null) || :
	done
}

if [ -n "$uninstall" ]; then
	[ -e "$manifest" ] || { echo "install.sh: nothing of ours is installed in $to ($manifest is missing)" >&2; exit 1; }
	remove
	echo "removed from $to"
	exit
fi

[ -x "$here/bin/vmtally" ] || { echo "install.sh: run it where the release was unpacked" >&2; exit 1; }
mkdir -p "$to" 2>/dev/null && [ -w "$to" ] ||
	{ echo "install.sh: cannot write to $to: run as root, or give --prefix DIR, for example \$HOME/.local" >&2; exit 1; }
remove
mkdir -p "$to/share/vmtally"
(cd "$here" && find . ! -type d ! -path ./install.sh | sed 's|^\./||' | LC_ALL=C sort) >"$manifest.new"
while read -r file; do
	mkdir -p "$(dirname "$to/$file")"
	cp -P "$here/$file" "$to/$file"
done <"$manifest.new"
# A unit names its program's place.
for unit in "$to"/lib/systemd/system/vmtally*.service; do
	[ ! -e "$unit" ] || { sed "s|/usr/libexec/|$prefix/libexec/|" "$unit" >"$unit.new" && mv "$unit.new" "$unit"; }
done
echo share/vmtally/manifest >>"$manifest.new"
mv "$manifest.new" "$manifest"
echo "installed in $to; sh install.sh --uninstall --prefix $prefix removes it"
case :$PATH: in
*:"$prefix/bin":*) ;;
*) echo "$prefix/bin is not in PATH" ;;
esac
[ ! -e /dev/kvm ] || [ -w /dev/kvm ] || echo "/dev/kvm is not for this user: as root, adduser $(id -un) kvm, and log in again"
