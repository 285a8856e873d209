// SPDX-License-Identifier: Apache-2.0
import ThisHost

/// Hosts on which Linux does not boot.
enum LinuxHost {
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
