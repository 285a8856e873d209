// SPDX-License-Identifier: Apache-2.0
import Machine
import ThisHost

/// Hosts on which Linux does not boot.
enum LinuxHost {
    /// The machine, with a word before it runs; a file that is no kernel is told without it.
    static func warned(_ machine: Machine) -> Machine {
        warn()
        return machine
    }

    /// Says so before a guest that stands still does not; silent where Linux boots.
    static func warn() {
        guard HostIdentity.backendHere == "kvm_pvm" else { return }
        let lab = Installation.labCommand
        vmtally.warn(
            "KVM on this host is kvm_pvm, which emulates a guest's ring 0 and lacks instructions that Linux uses: "
                + "a distribution's kernel stands still here. An emulated host with kvm-amd boots it: "
                + "\(lab) svm --file FILE... -- vmtally run ..., see docs/one-program.md")
    }
}
