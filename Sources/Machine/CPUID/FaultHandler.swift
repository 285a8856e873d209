// SPDX-License-Identifier: Apache-2.0

/// Gate 13 of an IDT: where #GP goes.
struct FaultGate: Equatable, Sendable {
    /// Linear address of the gate's 16 bytes.
    let address: UInt64
    /// Whether the guest may write the gate at that address. Linux maps the final IDT read-only.
    let isWritable: Bool
    /// Linear address of the handler; nil while the gate is empty.
    let handler: UInt64?
}

/// The guest's #GP handler as far as it is known, and what of the gate is watched.
///
/// CPUID faulting is on only while ``handler`` is what gate 13 says: a #GP of ours that goes anywhere else kills the
/// program that asked.
struct FaultHandler: Equatable, Sendable {
    /// What made the VMM look.
    enum Occasion: Sendable {
        /// The guest has just done what a kernel does when its IDT is ready.
        case told
        /// A moment of no meaning to the guest: what is seen may be a handler of early boot.
        case chance
    }

    /// Linear address of the handler that is armed; nil while none is.
    private(set) var handler: UInt64?
    /// Linear address of the gate while it is to be watched for writes.
    private(set) var watched: UInt64?
    /// What the last look by chance found.
    private var candidate: FaultGate?
    /// A handler has been armed: the guest is past its early boot.
    private var isPastBoot = false

    /// Takes in what the IDT has now; true when breakpoints or faulting have to change.
    mutating func update(_ gate: FaultGate?, _ occasion: Occasion) -> Bool {
        let before = (handler, watched)
        let isSettled = isPastBoot || occasion == .told || candidate == gate
        candidate = gate
        handler = isSettled ? gate?.handler : nil
        isPastBoot = isPastBoot || handler != nil
        watched = gate?.isWritable == true ? gate?.address : nil
        return before != (handler, watched)
    }
}

/// LIDT instructions of a guest's image: where its IDT changes.
enum DescriptorTableLoads {
    /// A bare-metal guest is small; a longer search would be felt at the start.
    private static let searchLimit = 4 << 20

    /// Linear addresses of what may be LIDT of an operand in memory (0F 01 /3, SDM vol. 2A), the first `limit`.
    static func find(in memory: GuestMemory, _ ranges: [Range<UInt64>], limit: Int) -> [UInt64] {
        var found: [UInt64] = []
        var left = searchLimit
        for range in ranges {
            let count = min(range.count, left)
            left -= count
            guard let bytes = memory.slice(range.lowerBound, count: count) else { continue }
            var index = 0
            while found.count < limit, index + 2 < count {
                let modrm = bytes[index + 2]
                if bytes[index] == 0x0F, bytes[index + 1] == 0x01, modrm >> 3 & 7 == 3, modrm >> 6 != 3 {
                    found.append(range.lowerBound + UInt64(index))
                }
                index += 1
            }
        }
        return found
    }
}
