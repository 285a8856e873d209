# shellcheck shell=bash
# What travels into the emulated host: one cpio archive beside the cached base.

# quote WORD...: the words as a POSIX shell would have to read them.
quote() {
    local word line=
    for word; do
        line+=" '${word//\'/\'\\\'\'}'"
    done
    printf '%s\n' "${line# }"
}

# pack_file ROOT SRC[=DEST]: copies a file or a folder below ROOT; without DEST
# into /bin. A DEST that ends in / is a folder to put it in.
pack_file() {
    local root=$1 source=${2%%=*} target=
    [[ $2 != *=* ]] || target=${2#*=}
    [[ -e $source ]] || fail "no such file to pack: $source"
    [[ -n $target ]] || target=/bin/
    [[ $target != */ ]] || target+=$(basename "$(realpath -s "$source")")
    target=$root/${target#/}
    mkdir -p "${target%/*}"
    cp -rLT "$source" "$target" || fail "cannot pack $source"
    if [[ -f $source ]] && is_dynamic "$source"; then
        note "warning: $source is linked dynamically; the emulated host has no libraries"
    fi
}

# write_command FILE WORD...: one word is a line for the shell, several words
# are a program and its arguments, taken literally.
write_command() {
    local file=$1
    shift
    if [[ $# -eq 1 ]]; then
        printf '%s\n' "$1"
    else
        quote "$@"
    fi >"$file"
}

# pack ROOT ARCHIVE
pack() {
    (cd "$1" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$2" ||
        fail "cannot write $2"
}
