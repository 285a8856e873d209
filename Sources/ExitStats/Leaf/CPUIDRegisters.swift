// SPDX-License-Identifier: Apache-2.0
/// The four registers that CPUID writes (SDM vol. 2A, CPUID; APM vol. 3, appendix E).
public struct CPUIDRegisters: Equatable, Sendable {
    /// EAX.
    public var eax: UInt32
    /// EBX.
    public var ebx: UInt32
    /// ECX.
    public var ecx: UInt32
    /// EDX.
    public var edx: UInt32

    /// All four are 0.
    @inlinable
    public var isEmpty: Bool { eax | ebx | ecx | edx == 0 }

    /// The answer to a CPUID; all zero is that of a leaf that is not there.
    @inlinable
    public init(eax: UInt32 = 0, ebx: UInt32 = 0, ecx: UInt32 = 0, edx: UInt32 = 0) {
        self.eax = eax
        self.ebx = ebx
        self.ecx = ecx
        self.edx = edx
    }
}
