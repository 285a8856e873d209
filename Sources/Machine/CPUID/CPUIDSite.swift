// SPDX-License-Identifier: Apache-2.0
import GuestCode
import KVM

/// Guest code with a CPUID instruction in it, for a breakpoint to answer (`--cpuid-site`).
public struct CPUIDSite: Equatable, Sendable {
    /// For messages.
    public let name: String
    /// Linear addresses among which the instruction is looked for.
    public let code: Range<UInt64>
    /// The #GP handler of the kernel that `code` belongs to, both as linked: its address in the guest tells what KASLR
    /// added to them. Nil: `code` is where the guest has it.
    public let linkedHandler: UInt64?

    /// No function that wraps CPUID is longer.
    private static let window: UInt64 = 256
    /// Linux: CONFIG_PHYSICAL_ALIGN, by which KASLR moves a kernel.
    private static let slideUnit: UInt64 = 2 << 20

    private init(name: String, code: Range<UInt64>, linkedHandler: UInt64?) {
        self.name = name
        self.code = code
        self.linkedHandler = linkedHandler
    }

    /// Code at an address of the running guest: the instruction itself, or a function that has it.
    public init(name: String, address: UInt64) {
        self.init(
            name: name, code: address..<max(address, address &+ Self.window), linkedHandler: nil)
    }

    /// The functions of a name; a kernel may have several.
    public static func named(_ name: String, in symbols: SymbolTable) -> [CPUIDSite] {
        let handler = symbols.address(of: "asm_exc_general_protection")
        return symbols.codeAddresses(of: name).map { address in
            let end = min(symbols.end(of: address) ?? .max, address &+ Self.window)
            return CPUIDSite(name: name, code: address..<max(address, end), linkedHandler: handler)
        }
    }

    /// The CPUID instruction's address in the guest; nil while it cannot be told, or is not there.
    ///
    /// - Parameter handler: the guest's #GP handler, if it is known.
    func instruction(handler: UInt64?, _ linear: LinearMemory, _ vcpu: borrowing VCPU) -> UInt64? {
        var start = code.lowerBound
        if let linkedHandler {
            guard let handler, (handler &- linkedHandler) % Self.slideUnit == 0 else { return nil }
            start = start &+ handler &- linkedHandler
        }
        var address = start
        // A byte at a time: what follows the function need not be mapped.
        while address &- start < UInt64(code.count) {
            // Without prefixes: compilers give it none, and the byte before it often looks like one.
            if linear.read(address, count: 2, vcpu) == [0x0F, 0xA2] {
                return address
            }
            address = address &+ 1
        }
        return nil
    }
}
