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

# What kvm-amd needs besides where it is built with SEV: in all of Debian's but the cloud kernels.
readonly SEV_MODULE=drivers/crypto/ccp/ccp

# meta_package LINE: the package that always depends on the line's newest kernel.
meta_package() {
    case $1 in
    6.1 | newest) echo linux-image-cloud-amd64 ;;
    6.1-rt) echo linux-image-rt-amd64 ;;
    *) echo "linux-image-$1-cloud-amd64" ;;
    esac
}

# kernel_directory VERSION [refresh]: prints the directory of that kernel in the
# cache, after fetching it if need be. VERSION is a line (6.1, 6.12), `newest`: the newest of Debian's newer suites, or a
# whole release (as uname -r prints it).
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
        [[ -n $(find "$link" -maxdepth 0 -mmin "-$FRESH_MINUTES") ]]; then
        readlink -f "$link"
        return
    fi
    if package=linux-image-$(newest_release "$version") &&
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

# newest_release LINE: the newest release (as uname -r prints it) of a line, of this machine's apt; of the newer suites'
# for `newest`.
newest_release() {
    local release version
    if [[ $1 == newest ]]; then
        newer_suites && version=$(newest_version) || return
        release=$(suite_apt cache show "linux-image-cloud-amd64=$version" |
            sed -n 's/^Depends:.*linux-image-\([0-9][^ ,]*\).*/\1/p')
    else
        if ! have_package_lists && [[ $(id -u) -eq 0 ]]; then
            with_lock packages apt-get update >&2
        fi
        release=$(apt-cache depends "$(meta_package "$1")" 2>/dev/null |
            sed -n 's/^ *Depends: linux-image-\([0-9].*\)/\1/p' | head -n 1)
    fi
    [[ -n $release ]] && printf '%s\n' "$release"
}

# newest_version: the version of the newest kernel packages of the newer suites.
newest_version() {
    local version newest=''
    while read -r version; do
        dpkg --compare-versions "$version" le "$newest" || newest=$version
    done < <(suite_apt cache madison linux-image-cloud-amd64 | awk '{ print $3 }')
    [[ -n $newest ]] && printf '%s\n' "$newest"
}

# is_newer RELEASE: whether a kernel comes from the newer suites, as this machine's apt does not have it.
is_newer() {
    ! apt-cache show "linux-image-$1" >/dev/null 2>&1 && newer_suites
}

# fetch_packages DIRECTORY RELEASE NAME...: unpacks the packages NAME-RELEASE, those of them that there are.
fetch_packages() {
    local directory=$1 release=$2 name known=() apt=own_apt
    shift 2
    ! is_newer "$release" || apt=suite_apt
    for name; do
        ! "$apt" cache show "$name-$release" >/dev/null 2>&1 || known+=("$name-$release")
    done
    [[ ${#known[@]} -gt 0 ]] && unpack_packages "$apt" "$directory" "${known[@]}"
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
    (unpack_into "$scratch" "${package#linux-image-}") || status=$?
    if [[ $status -eq 0 ]]; then
        rm -rf "${kernels:?}/$package"
        mv -T "$scratch/ready" "$kernels/$package" || status=$?
    fi
    rm -rf "$scratch"
    return "$status"
}

unpack_into() {
    local scratch=$1 release=$2 modules module file base
    cd "$scratch" && mkdir tree || return
    # linux-image has it all up to 6.x; from 7.x it leaves kernel and modules to two others.
    fetch_packages tree "$release" linux-image linux-binary linux-modules || return
    mkdir -p ready base/bin base/mod base/proc base/sys base/dev base/tmp base/root base/run base/out || return
    modules=$(find tree -path "*/lib/modules/$release/kernel") && [[ -n $modules ]] || return
    mv tree/boot/vmlinuz-* ready/vmlinuz 2>/dev/null || mv "${modules%/kernel}/vmlinuz" ready/vmlinuz || return
    for module in "${HOST_MODULES[@]}" "$SEV_MODULE"; do
        base=base/mod/${module##*/}.ko
        # after kvm-amd
        [[ $module != "$SEV_MODULE" ]] || grep -azq '^depends=.*\<ccp\>' base/mod/kvm-amd.ko || continue
        file=$modules/$module.ko
        if [[ -e $file.xz ]]; then
            xz -dc "$file.xz" >"$base" || return
        elif [[ -e $file ]]; then
            cp "$file" "$base" || return
        fi
        [[ ! -e $base ]] || cut_signature "$base" || return
    done
    [[ -e base/mod/kvm-amd.ko ]] || return
    printf '%s\n' "$release" >ready/release
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

# kernel_headers LINE: prints the directory of the newest release's headers, in which modules can be built.
kernel_headers() {
    local release headers
    release=$(newest_release "$1") || return
    headers=$(cache_directory)/headers/$release
    with_lock "headers-$release" unpack_headers "$release" "$headers" || return
    printf '%s\n' "$headers/usr/src/linux-headers-$release"
}

unpack_headers() {
    local release=$1 headers=$2 scratch status=0
    [[ ! -e $headers/ready ]] || return 0
    mkdir -p "${headers%/*}" && scratch=$(mktemp -d "${headers%/*}/.$release.XXXXXX") || return
    chmod 755 "$scratch"
    note "fetching linux-headers-$release"
    unpack_headers_into "$scratch" "$release" "$headers" && touch "$scratch/ready" || status=$?
    if [[ $status -eq 0 ]]; then
        rm -rf "$headers"
        mv -T "$scratch" "$headers" || status=$?
    fi
    rm -rf "$scratch"
    return "$status"
}

unpack_headers_into() {
    local scratch=$1 release=$2 headers=$3 apt=own_apt depends common kbuild gcc variables newer=() file
    ! is_newer "$release" || apt=suite_apt
    depends=$("$apt" cache show "linux-headers-$release" | grep '^Depends:') || return
    common=$(grep -o 'linux-headers-[^ ,]*-common[^ ,]*' <<<"$depends") &&
        kbuild=$(grep -o 'linux-kbuild-[^ ,]*' <<<"$depends") &&
        unpack_packages "$apt" "$scratch" "linux-headers-$release" "$common" || return
    variables=$scratch/usr/src/linux-headers-$release/.kernelvariables
    if [[ $apt == own_apt ]]; then
        unpack_packages "$apt" "$scratch" "$kbuild" || return
        # Where vmlinux is there modules get BTF, which takes the newer pahole.
        [[ ! -e ${variables%/*}/vmlinux ]] || newer=(pahole)
    else
        gcc=$(grep -o 'gcc-[0-9]*' "$variables") || return
        sed -i "s,[^ ]*$gcc,$headers/usr/bin/x86_64-linux-gnu-$gcc," "$variables"
        newer=("$kbuild" "$gcc")
    fi
    if [[ ${#newer[@]} -gt 0 ]] && newer_suites; then
        unpack_whole "$scratch" "${newer[@]}" || return
        printf 'override PAHOLE = %s\n' "$headers/usr/bin/pahole" >>"$variables"
        find "$scratch/usr" -type f -perm -u+x '(' -path '*/usr/bin/*' -o -path '*/usr/libexec/*' \
            -o -path '*/usr/lib/linux-kbuild-*' ')' | while read -r file; do
            # those of this machine's own suite run as they are
            is_dynamic "$file" && ! [[ $apt == own_apt && $file == */linux-kbuild-* ]] || continue
            mv "$file" "$file.elf" &&
                write_wrapper "$file" "$headers" "$headers${file#"$scratch"}.elf" || return
        done || return
    fi
    # Absolute paths, in Makefiles and links.
    grep -rlI --include=Makefile '/usr/\(src\|lib\)/linux' "$scratch/usr/src" |
        xargs -r sed -i "s,\([ =]\)/usr/\(src\|lib\)/linux,\1$headers/usr/\2/linux,g"
    find "$scratch/usr/src" "$scratch/usr/lib" -type l -lname '/usr/*' | while read -r file; do
        ln -sfn "$headers$(readlink "$file")" "$file"
    done
}

# kernel_source LINE [PATTERN...]: prints the directory of the line's newest source: of the files that match, or all.
kernel_source() {
    local line=$1 apt=own_apt package version sources
    shift
    if [[ $line == newest ]]; then
        newer_suites && apt=suite_apt || return
        version=$(newest_version)
        package=$(suite_apt cache show "linux-source=$version" | sed -n 's/^Depends: \(linux-source-[0-9.]*\).*/\1/p')
    else
        package=linux-source-$line
        version=$(own_apt cache policy "$package" | sed -n 's/^ *Candidate: *//p')
    fi
    [[ $package == linux-source-* && -n $version && $version != '(none)' ]] || return
    sources=$(cache_directory)/source/${package}_${version}_$(md5sum <<<"$*" | head -c 8)
    with_lock "source-$line" unpack_source "$apt" "$package=$version" "$sources" "$@" || return
    printf '%s\n' "$sources"
}

unpack_source() {
    local apt=$1 package=$2 sources=$3 scratch tarball status=0 name=${2%%=*} patterns=("${@:4}")
    [[ ! -e $sources ]] || return 0
    mkdir -p "${sources%/*}" && scratch=$(mktemp -d "${sources%/*}/.$name.XXXXXX") && mkdir "$scratch/tree" || return
    chmod 755 "$scratch/tree"
    note "fetching $package"
    {
        unpack_packages "$apt" "$scratch" "$package" &&
            tarball=$(echo "$scratch"/usr/src/linux-source-*.tar.xz) &&
            tar -xf "$tarball" -C "$scratch/tree" --strip-components=1 --wildcards "${patterns[@]/#/$name/}" >&2
    } && mv -T "$scratch/tree" "$sources" || status=1
    rm -rf "$scratch"
    return "$status"
}
