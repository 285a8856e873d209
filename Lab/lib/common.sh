# shellcheck shell=bash disable=SC2034
# Messages, locks and the Debian packages that the lab stands on.

# Exit statuses of the runner itself, as timeout(1) and env(1) use them.
readonly STATUS_TIMEOUT=124 STATUS_LAB=125

# All grounds, in the order of their start-up time.
readonly GROUNDS=(svm vmx)

# What apt said less than this time ago (in minutes) is believed.
readonly FRESH_MINUTES=1440

note() { printf 'lab: %s\n' "$*" >&2; }

# fail CAUSE [REMEDY]: the lab itself could not do its work.
fail() {
    printf 'lab: error: %s\n' "$1" >&2
    [[ $# -lt 2 ]] || printf 'lab: remedy: %s\n' "$2" >&2
    exit "$STATUS_LAB"
}

usage_error() {
    printf 'lab: error: %s\nlab: remedy: see %s --help\n' "$1" "$0" >&2
    exit 64
}

cache_directory() {
    printf '%s\n' "${VMTALLY_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/vmtally}/lab"
}

# with_lock NAME COMMAND...: one process of this user at a time does COMMAND.
with_lock() {
    local lock descriptor status=0
    lock=$(cache_directory)/$1.lock
    shift
    mkdir -p "${lock%/*}"
    exec {descriptor}>"$lock"
    flock "$descriptor" || fail "cannot lock $lock"
    "$@" || status=$?
    exec {descriptor}>&-
    return "$status"
}

# requirements GROUND: lines "PACKAGE FILE", FILE being what we use of it.
requirements() {
    echo 'busybox-static /bin/busybox'
    echo 'cpio /usr/bin/cpio'
    echo 'xz-utils /usr/bin/xz'
    echo 'util-linux /usr/bin/flock'
    case $1 in
    svm-old) # where the newer QEMU cannot be had
        echo 'qemu-system-x86 /usr/bin/qemu-system-x86_64'
        ;;
    vmx)
        echo 'bochs /usr/bin/bochs'
        echo 'bochs-term /usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so'
        echo 'bochsbios /usr/share/bochs/BIOS-bochs-latest'
        echo 'vgabios /usr/share/bochs/VGABIOS-lgpl-latest'
        echo 'isolinux /usr/lib/ISOLINUX/isolinux.bin'
        echo 'syslinux-common /usr/lib/syslinux/modules/bios/ldlinux.c32'
        echo 'genisoimage /usr/bin/genisoimage'
        echo 'bsdutils /usr/bin/script'
        ;;
    esac
}

# missing_packages GROUND...: the packages that are not there, one a line.
missing_packages() {
    local ground package file
    for ground; do
        while read -r package file; do
            if [[ $package == busybox-static && -e $file ]] && is_dynamic "$file"; then
                echo "$package"
            elif [[ ! -e $file ]]; then
                echo "$package"
            fi
        done < <(requirements "$ground")
    done | sort -u
}

# is_dynamic FILE: an ELF file that asks for a program interpreter.
is_dynamic() {
    head -c 8192 "$1" | grep -aqE '/ld-(linux|musl)[-.a-z0-9_]*\.so'
}

# install_packages GROUND...: installs what is missing, or says how.
install_packages() {
    local missing line
    mapfile -t missing < <(missing_packages "$@")
    [[ ${#missing[@]} -gt 0 ]] || return 0
    line="apt-get install -y --no-install-recommends ${missing[*]}"
    if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
        fail "these Debian packages are missing: ${missing[*]}" "as root: $line"
    fi
    note "$line"
    with_lock packages install_now "${missing[@]}" ||
        fail "apt could not install: ${missing[*]}" "as root: apt-get update && $line"
}

install_now() {
    have_package_lists || apt-get update >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >&2 ||
        { # lists may be older than the archive
            apt-get update >&2 &&
                DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >&2
        }
}

have_package_lists() {
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null
}
