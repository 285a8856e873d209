// SPDX-License-Identifier: Apache-2.0
/// The bare-metal guest probe (guest-probe/BareMetal), part of this program: a static ELF64 for a VM's guest.
public enum ProbeImage {
    /// The ELF file's bytes, where the program has them: nothing is copied or read at start-up.
    public static var elf: UnsafeRawBufferPointer {
        // A variable, because only a stored variable has an address that stays; nobody writes to it.
        withUnsafeBytes(of: &GuestImageBareMetal.words) {
            UnsafeRawBufferPointer(rebasing: $0[..<GuestImageBareMetal.count])
        }
    }

    /// The guest of `vmtally bench` (guest-probe/Bench), likewise.
    public static var bench: UnsafeRawBufferPointer {
        withUnsafeBytes(of: &GuestImageBench.words) {
            UnsafeRawBufferPointer(rebasing: $0[..<GuestImageBench.count])
        }
    }
}
