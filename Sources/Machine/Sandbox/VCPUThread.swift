// SPDX-License-Identifier: Apache-2.0
import CLinux
import CLinuxKVM
import Glibc
import Linux

extension SystemCallFilter {
    /// A vCPU's thread: KVM_RUN, tried first; its own vCPU's state; and the devices that it handles exits for.
    static let vCPUThread: SystemCallFilter = {
        var filter = SystemCallFilter()
        filter.allow(SYS_ioctl, .oneOf(argument: 1, [UInt32(VMTALLY_KVM_RUN)] + vCPUState + interrupts))
        filter.allow(allOf: .anyThread)
        filter.allow(allOf: .openDescriptors)
        filter.allow(allOf: .deviceWork)
        return filter
    }()

    /// ioctls on a vCPU that read and write its registers, while it does not run.
    static let vCPUState: [UInt32] = [
        VMTALLY_KVM_GET_REGS, VMTALLY_KVM_SET_REGS, VMTALLY_KVM_GET_SREGS, VMTALLY_KVM_SET_SREGS,
        VMTALLY_KVM_GET_MSRS, VMTALLY_KVM_SET_MSRS, VMTALLY_KVM_GET_CPUID2, VMTALLY_KVM_TRANSLATE,
        VMTALLY_KVM_SET_GUEST_DEBUG,
        VMTALLY_KVM_GET_DEBUGREGS, VMTALLY_KVM_SET_DEBUGREGS, VMTALLY_KVM_GET_VCPU_EVENTS,
        VMTALLY_KVM_SET_VCPU_EVENTS, VMTALLY_KVM_GET_MP_STATE, VMTALLY_KVM_SET_MP_STATE, VMTALLY_KVM_INTERRUPT,
        VMTALLY_KVM_NMI,
    ].map(UInt32.init)

    /// ioctls on the VM that raise interrupts and wire up a device's events.
    static let interrupts: [UInt32] = [
        VMTALLY_KVM_IRQ_LINE, VMTALLY_KVM_SIGNAL_MSI, VMTALLY_KVM_SET_GSI_ROUTING, VMTALLY_KVM_IRQFD,
        VMTALLY_KVM_IOEVENTFD,
    ].map(UInt32.init)
}
