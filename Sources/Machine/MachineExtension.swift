// SPDX-License-Identifier: Apache-2.0
import ExitStats
import KVM

/// What someone else adds to a bare-metal guest's machine: devices, and a look at its parts.
package protocol MachineExtension: AnyObject, Sendable {
    /// Devices and the ports that they claim, below 0x2020.
    var ports: [(ClosedRange<UInt16>, any Device)] { get }
    /// Devices with registers in memory, 4 KiB each, one after the other from ``window`` on.
    var registers: [any Device] { get }
    /// Guest physical address.
    var window: UInt64 { get }
    /// The machine is about to run for the first time.
    func attach(_ parts: MachineParts)
}

/// What a machine consists of, for those who look at it while it runs.
package struct MachineParts: Sendable {
    package let vm: SharedVM
    package let memory: GuestMemory
    /// One a vCPU.
    package let tallies: [Tally]
    package let host: HostLeafSupport
    /// Writes to coalesced zones; nil where KVM has none.
    package let ring: CoalescedRing?
    package let statistics: KernelStatistics
}
