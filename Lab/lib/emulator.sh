# shellcheck shell=bash
# The emulators. Each takes the folder of this run, which holds vmlinuz,
# initrd (base and ours), and gets console, output and archive: the bytes of the
# three serial ports. It replaces the calling process by the emulator.

# Every emulator dies with the runner, even if that is killed outright.
readonly TIED=(setpriv --pdeathsig KILL)

# emulate GROUND FOLDER KERNEL-ARGUMENTS MEMORY CPUS ICOUNT ONE-THREAD
emulate() {
    case $1 in
    svm) emulate_qemu "${@:2}" ;;
    vmx) emulate_bochs "${@:2}" ;;
    esac
}

emulate_qemu() {
    local folder=$1 arguments=$2 memory=$3 cpus=$4 icount=$5 accelerator=tcg processor=max
    [[ -z $6 ]] || accelerator=tcg,thread=single
    # KVM of an -rt kernel wants a TSC that says it never changes pace. QEMU's does not, and does not say so.
    [[ $(<"$folder/release") != *-rt-* ]] || processor=max,invtsc=on,x-force-features=on
    local command=(
        "$(<"$folder/qemu")" -accel "$accelerator" -cpu "$processor" -m "$memory" -smp "$cpus"
        -display none -monitor none -nodefaults -no-user-config -no-reboot
        -serial "file:$folder/console" -serial "file:$folder/output"
        -serial null -serial "file:$folder/archive"
        -kernel "$folder/vmlinuz" -initrd "$folder/initrd" -append "$arguments"
    )
    [[ -z $icount ]] || command+=(-icount "shift=$icount")
    exec "${TIED[@]}" "${command[@]}"
}

# qemu: prints the program of the svm ground: the newer suite's QEMU, else this machine's, which has less (docs/lab.md).
# CI takes no less.
qemu() {
    local own=/usr/bin/qemu-system-x86_64 version
    newer_qemu "$@" && return
    [[ -z ${CI:-} ]] || fail "no QEMU of Debian $SUITES to be had" "see $(cache_directory)/suites/log"
    [[ -x $own ]] || install_packages svm-old
    version=$("$own" --version | sed -n '1s/QEMU emulator version //p')
    note "no QEMU of Debian $SUITES to be had: taking this machine's, $version, which has no guest debugging before 10.0"
    printf '%s\n' "$own"
}

emulate_bochs() {
    local folder=$1 arguments=$2 memory=$3
    cat >"$folder/isolinux.cfg" <<CONFIGURATION
default host
prompt 0
label host
 kernel /vmlinuz
 append initrd=/initrd $arguments
CONFIGURATION
    cp /usr/lib/ISOLINUX/isolinux.bin "$folder/" # genisoimage writes into it
    genisoimage -quiet -o "$folder/disc.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat \
        -no-emul-boot -boot-load-size 4 -boot-info-table -graft-points \
        isolinux/isolinux.bin="$folder/isolinux.bin" isolinux/isolinux.cfg="$folder/isolinux.cfg" \
        isolinux/ldlinux.c32=/usr/lib/syslinux/modules/bios/ldlinux.c32 \
        vmlinuz="$(readlink -f "$folder/vmlinuz")" initrd="$folder/initrd"
    cat >"$folder/bochsrc" <<CONFIGURATION
display_library: term
megs: $memory
cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0, msrs="$folder/msrs"
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=$folder/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$folder/console
com2: enabled=1, mode=file, dev=$folder/output
com4: enabled=1, mode=file, dev=$folder/archive
clock: sync=none, time0=local
log: $folder/bochs.log
panic: action=fatal
error: action=report
info: action=report
CONFIGURATION
    # MSR_IA32_UCODE_REV of a microcode whose TSC deadline timer Linux trusts. It would take the APIC's own timer, which
    # is 146 times as fast as Linux makes it out to be here: 12,000 interrupts a second, a boot three times as long.
    echo '0x08b 0 02000014 00000000 00000000 00000000 ffffffff ffffffff' >"$folder/msrs"
    # Bochs draws on a terminal that it makes itself, and stands still when 20 KB lie there unread.
    "${TIED[@]}" bash -c 'until screen=$(grep -ao "/dev/pts/[0-9]*" "$1"); do sleep 0.2; done; exec cat "$screen"' \
        drain "$folder/emulator" >/dev/null 2>&1 &
    # Debian's Bochs starts in its debugger ("c" goes on) and wants a terminal.
    echo c >"$folder/debugger"
    TERM=xterm exec "${TIED[@]}" script -qec \
        "exec setpriv --pdeathsig KILL bochs -q -f '$folder/bochsrc' -rc '$folder/debugger'" /dev/null
}
