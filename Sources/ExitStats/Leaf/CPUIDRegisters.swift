// SPDX-License-Identifier: Apache-2.0
/// The four registers that CPUID writes (SDM vol. 2A, CPUID; APM vol. 3, appendix E).
public struct CPUIDRegisters: Equatable, Sendable {
    public var eax: UInt32
    public var ebx: UInt32
    public var ecx: UInt32
    public var edx: UInt32

    /// All four are 0.
    @inlinable
    public var isEmpty: Bool { eax | ebx | ecx | edx == 0 }

    @inlinable
    public init(eax: UInt32 = 0, ebx: UInt32 = 0, ecx: UInt32 = 0, edx: UInt32 = 0) {
        self.eax = eax
        self.ebx = ebx
        self.ecx = ecx
        self.edx = edx
    }
}
