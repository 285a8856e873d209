// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVM
import Reports
import Testing

@Suite("Guide to capabilities")
struct HostCapabilityGuideTests {
    @Test("each capability is there once, under the kernel's name")
    func names() {
        let guides = CapabilityGuide.all
        #expect(Set(guides.map(\.name)).count == guides.count)
        for guide in guides {
            #expect(Capability.all.contains { $0.name == "KVM_CAP_\(guide.name)" }, "\(guide.name)")
        }
    }

    @Test("each says in one line what it gives and what its absence costs")
    func texts() {
        for guide in CapabilityGuide.all {
            for text in [guide.gives, guide.cost] {
                #expect(!text.isEmpty && text.count <= 90 && !text.contains("\n"), "\(guide.name): \(text)")
            }
        }
    }

    @Test("every subject but the catch-all has capabilities")
    func subjects() {
        let used = Set(CapabilityGuide.all.map(\.subject))
        #expect(used == Set(CapabilityGuide.Subject.allCases).subtracting([.otherArchitectures]))
    }

    @Test("what is left out belongs to other architectures, by its name")
    func others() {
        let prefixes = ["S390_", "PPC_", "ARM_", "MIPS_", "RISCV_", "SPAPR_", "IRQ_MPIC", "IRQ_XICS"]
        // Without the architecture in their name (kvm/api.rst says which).
        let known = [
            "SW_TLB", "VM_ATTRIBUTES", "GUEST_DEBUG_HW_BPS", "GUEST_DEBUG_HW_WPS", "MSI_DEVID", "PTP_KVM",
            "VM_GPA_BITS", "COUNTER_OFFSET",
        ]
        for capability in Capability.all where CapabilityGuide.guide(capability.name) == nil {
            let name = String(capability.name.dropFirst("KVM_CAP_".count))
            #expect(prefixes.contains { name.hasPrefix($0) } || known.contains(name), "\(name) wants a guide")
        }
    }

    @Test(
        "whatever this host has, we can explain",
        .enabled(if: FileManager.default.isWritableFile(atPath: "/dev/kvm"), "no usable /dev/kvm here"))
    func thisHost() throws {
        let system = try System()
        for capability in Capability.all where system.check(capability) != 0 {
            #expect(CapabilityGuide.guide(capability.name) != nil, "\(capability.name) wants a guide")
        }
    }
}
