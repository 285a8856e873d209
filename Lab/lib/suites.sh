# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Packages of newer Debian suites than this machine's, unpacked into the cache and never installed. An apt with a folder
# of its own reads them, from where this machine's apt gets its own suite; neither touches the other. Their programs run
# on their own C library.
#
# CACHE/suites/       apt's configuration, lists and archives
# CACHE/qemu/VERSION/ QEMU with all libraries; qemu-system-x86_64 in it runs it
# CACHE/qemu-newest   symbolic link to the newest VERSION seen

# The suites, the first for programs, the others for kernels alone.
readonly SUITES=(trixie trixie-backports sid)

# suite_apt PROGRAM ARGUMENTS...: apt-PROGRAM of the newer suites.
suite_apt() {
    APT_CONFIG=$(cache_directory)/suites/apt.conf "apt-$1" "${@:2}"
}

# newer_suites [refresh]: makes the newer suites' apt ready; its lists are read again once a day, or at `refresh`.
# Fails where there is no Debian to derive them from, or no way to it.
newer_suites() {
    command -v apt-get >/dev/null && with_lock suites ready_suites "${1:-}"
}

ready_suites() {
    local folder sources stamp
    folder=$(cache_directory)/suites
    stamp=$folder/updated
    [[ -n $1 || -z $(find "$stamp" -mmin "-$FRESH_MINUTES" 2>/dev/null) ]] || return 0
    sources=$(derived_sources) && [[ -n $sources ]] || return
    mkdir -p "$folder"/{lists,archives}/partial && : >"$folder/status" || return
    printf '%s\n' "$sources" >"$folder/sources.list" || return
    # This machine's way to an archive (a proxy, say), and nothing else of its configuration: no hooks, no pins.
    {
        apt-config dump | grep '^Acquire::'
        cat <<CONFIGURATION
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$folder";
Dir::State::status "$folder/status";
Dir::Cache "$folder";
Dir::Log "$folder";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Default-Release "${SUITES[0]}";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
CONFIGURATION
    } >"$folder/apt.conf" || return
    if suite_apt get update >"$folder/log" 2>&1 && ! grep -q '^[WE]:' "$folder/log"; then
        touch "$stamp"
    else
        # What a former day has left still serves.
        [[ -e $stamp ]]
    fi
}

# derived_sources: the newer suites' lines for sources.list: this machine's own, but for the suite.
derived_sources() {
    local own archive suite signed=''
    # shellcheck source=/dev/null
    own=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    [[ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]] ||
        signed='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] '
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
        awk -v suite="$own" '$2 == suite && $3 == "main" { print $1 }' | sort -u |
        while read -r archive; do
            for suite in "${SUITES[@]}"; do
                printf 'deb %s%s %s main\n' "$signed" "$archive" "$suite"
            done
        done
}

# own_apt PROGRAM ARGUMENTS...: apt-PROGRAM of this machine.
own_apt() {
    "apt-$1" -o APT::Sandbox::User=root "${@:2}"
}

# unpack_packages APT DIRECTORY PACKAGE...: unpacks just these packages; APT is own_apt or suite_apt.
unpack_packages() {
    local apt=$1 directory archives status=0
    directory=$(realpath "$2") && archives=$(mktemp -d "$directory/.archives.XXXXXX") || return
    (cd "$archives" && "$apt" get download "${@:3}" >log 2>&1) &&
        find "$archives" -name '*.deb' -exec dpkg -x '{}' "$directory" ';' || {
        status=1
        tail -n 3 "$archives/log" >&2
    }
    rm -rf "$archives"
    return "$status"
}

# unpack_whole DIRECTORY PACKAGE...: unpacks packages of a newer suite and all that they depend on, the C library
# included.
unpack_whole() {
    local directory=$1 archives status=0
    archives=$(mktemp -d "$directory/.archives.XXXXXX") && mkdir "$archives/partial" || return
    suite_apt get install -y --download-only -o Dir::Cache::archives="$archives" "${@:2}" >"$archives/log" 2>&1 &&
        find "$archives" -name '*.deb' -exec dpkg -x '{}' "$directory" ';' || {
        status=1
        tail -n 3 "$archives/log" >&2
    }
    rm -rf "$archives"
    return "$status"
}

# write_wrapper FILE ROOT PROGRAM [ARGUMENTS]: a FILE that runs PROGRAM with the C library of ROOT. Both are where they
# will be; ARGUMENTS are shell words. PROGRAM sees FILE as its name: some look for others beside it.
write_wrapper() {
    local libraries=$2/usr/lib/x86_64-linux-gnu
    cat >"$1" <<WRAPPER && chmod 755 "$1"
#!/bin/sh
exec '$2/usr/lib64/ld-linux-x86-64.so.2' --library-path '$libraries' --argv0 "\$0" '$3' ${4:-} "\$@"
WRAPPER
}

# newer_qemu [refresh]: prints the path of a program that runs the newer suite's qemu-system-x86_64. Asks apt only where
# there is none yet, or at `refresh`.
newer_qemu() {
    local cache link version
    cache=$(cache_directory)
    link=$cache/qemu-newest
    if [[ -n ${1:-} || ! -e $link/qemu-system-x86_64 ]] && newer_suites "${1:-}"; then
        version=$(suite_apt cache policy qemu-system-x86 | sed -n 's/^ *Candidate: *//p')
        [[ -z $version || $version == '(none)' ]] || with_lock "qemu" unpack_qemu "$version" "$link"
    fi
    [[ -e $link/qemu-system-x86_64 ]] && printf '%s\n' "$(readlink -f "$link")/qemu-system-x86_64"
}

unpack_qemu() {
    local version=$1 link=$2 cache ready scratch status=0
    cache=$(cache_directory)
    ready=$cache/qemu/${version//:/_}
    if [[ ! -e $ready/qemu-system-x86_64 ]]; then
        mkdir -p "$cache/qemu"
        scratch=$(mktemp -d "$cache/qemu/.unpack.XXXXXX") || return
        chmod 755 "$scratch"
        note "fetching qemu-system-x86 $version"
        unpack_qemu_into "$scratch" "$version" "$ready" || status=$?
        if [[ $status -eq 0 ]]; then
            rm -rf "$ready"
            mv -T "$scratch" "$ready" || status=$?
        fi
        rm -rf "$scratch"
    fi
    [[ $status -eq 0 ]] && ln -sfn "qemu/${ready##*/}" "$link.$$" && mv -T "$link.$$" "$link"
}

unpack_qemu_into() {
    local scratch=$1 version=$2 ready=$3
    unpack_whole "$scratch" "qemu-system-x86=$version" || return
    # Man pages, firmware of other machines, fonts: 100 MB that nothing here reads.
    find "$scratch" -mindepth 1 -maxdepth 1 ! -name usr -exec rm -rf '{}' +
    find "$scratch/usr" -mindepth 1 -maxdepth 1 ! -name bin ! -name lib ! -name lib64 ! -name share -exec rm -rf '{}' +
    find "$scratch/usr/bin" -type f ! -name qemu-system-x86_64 -delete
    find "$scratch/usr/share" -mindepth 1 -maxdepth 1 ! -name qemu ! -name seabios -exec rm -rf '{}' +
    write_wrapper "$scratch/qemu-system-x86_64" "$ready" "$ready/usr/bin/qemu-system-x86_64" \
        "-L '$ready/usr/share/qemu' -L '$ready/usr/share/seabios'" || return
    printf '%s\n' "$version" >"$scratch/version"
}
