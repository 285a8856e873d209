# shellcheck shell=bash
# Debian's kernels, unpacked into the cache and never installed.
#
# CACHE/kernels/PACKAGE/  vmlinuz, host.cpio (busybox and modules), release
# CACHE/kernel-6.1        symbolic link to the newest PACKAGE seen of that line

# The modules of an emulated host, in the order in which they load.
readonly HOST_MODULES=(
    virt/lib/irqbypass arch/x86/kvm/kvm arch/x86/kvm/kvm-amd arch/x86/kvm/kvm-intel
    arch/x86/kernel/msr arch/x86/kernel/cpuid
)

# A link younger than this (in minutes) is believed without asking apt.
readonly KERNEL_FRESH_MINUTES=1440

# meta_package LINE: the package that always depends on the line's newest kernel.
meta_package() {
    case $1 in
    6.1) echo linux-image-cloud-amd64 ;;
    *) echo "linux-image-$1-cloud-amd64" ;;
    esac
}

# kernel_directory VERSION [refresh]: prints the directory of that kernel in the
# cache, after fetching it if need be. VERSION is a line (6.1, 6.12) or a whole
# release (as uname -r prints it).
kernel_directory() {
    local version=$1 refresh=${2:-} cache link package
    cache=$(cache_directory)
    if [[ $version == *-amd64 ]]; then
        with_lock "linux-image-$version" unpack_kernel "linux-image-$version" || return
        printf '%s\n' "$cache/kernels/linux-image-$version"
        return
    fi
    link=$cache/kernel-$version
    if [[ -z $refresh && -e $link/host.cpio ]] &&
        [[ -n $(find "$link" -maxdepth 0 -mmin "-$KERNEL_FRESH_MINUTES") ]]; then
        readlink -f "$link"
        return
    fi
    if package=$(newest_kernel_package "$version") &&
        with_lock "$package" unpack_kernel "$package"; then
        # touch: a kernel that is still the newest counts as fresh from now on
        ln -sfn "kernels/$package" "$link.$$" && touch -h "$link.$$" && mv -T "$link.$$" "$link"
    elif [[ -e $link/host.cpio ]]; then
        note "apt cannot be asked; taking the cached kernel $(basename "$(readlink "$link")")"
    else
        fail "no kernel $version in the cache and none to be had by apt" \
            "as root: apt-get update; then look: apt-cache policy $(meta_package "$version")"
    fi
    readlink -f "$link"
}

newest_kernel_package() {
    local meta package
    meta=$(meta_package "$1")
    if ! have_package_lists && [[ $(id -u) -eq 0 ]]; then
        with_lock packages apt-get update >&2
    fi
    package=$(apt-cache depends "$meta" 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')
    [[ $package == linux-image-* ]] && printf '%s\n' "$package"
}

# unpack_kernel PACKAGE: leaves CACHE/kernels/PACKAGE complete, or fails.
unpack_kernel() {
    local package=$1 kernels scratch status=0
    kernels=$(cache_directory)/kernels
    [[ -e $kernels/$package/host.cpio ]] && return 0
    mkdir -p "$kernels"
    scratch=$(mktemp -d "$kernels/.$package.XXXXXX") || return
    chmod 755 "$scratch"
    note "fetching $package"
    # not in "if": set -e must hold inside
    (set -e && unpack_into "$scratch" "$package") || status=$?
    if [[ $status -eq 0 ]]; then
        rm -rf "${kernels:?}/$package"
        mv -T "$scratch/ready" "$kernels/$package" || status=$?
    fi
    rm -rf "$scratch"
    return "$status"
}

unpack_into() {
    local scratch=$1 package=$2 tree module base
    cd "$scratch" || return
    apt-get -o APT::Sandbox::User=root download "$package" >/dev/null || {
        have_package_lists || note "apt has no package lists"
        [[ $(id -u) -eq 0 ]] && apt-get update >&2 &&
            apt-get -o APT::Sandbox::User=root download "$package" >/dev/null
    } || return
    dpkg -x ./*.deb tree || return
    mkdir -p ready base/bin base/mod base/proc base/sys base/dev base/tmp base/root base/run base/out || return
    mv tree/boot/vmlinuz-* ready/vmlinuz || return
    tree=$(echo tree/lib/modules/*/kernel)
    for module in "${HOST_MODULES[@]}"; do
        base=base/mod/${module##*/}.ko
        if [[ -e $tree/$module.ko.xz ]]; then
            xz -dc "$tree/$module.ko.xz" >"$base" || return
        else
            cp "$tree/$module.ko" "$base" || return
        fi
        cut_signature "$base" || return
    done
    tree=${tree%/kernel}
    printf '%s\n' "${tree##*/}" >ready/release
    cp /bin/busybox base/bin/busybox && ln -s busybox base/bin/sh || return
    (cd base && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >ready/host.cpio
}

# cut_signature MODULE: the module without the signature that follows its ELF
# file. Checking kvm.ko's took 5 s under Bochs. An unsigned module taints the
# kernel (E) and is the same in all else.
cut_signature() {
    local size length bytes
    size=$(stat -c %s "$1")
    [[ $(tail -c 28 "$1" | tr -d '\n') == '~Module signature appended~' ]] || return 0
    # struct module_signature: 12 bytes, the last four the length, big-endian
    read -r -a bytes < <(tail -c 32 "$1" | head -c 4 | od -An -tu1)
    length=$(((bytes[0] << 24) + (bytes[1] << 16) + (bytes[2] << 8) + bytes[3]))
    truncate -s $((size - 28 - 12 - length)) "$1"
}
