// SPDX-License-Identifier: Apache-2.0
import BootRecords
import ThisHost

extension BootRecording.Host {
    /// - Parameter tscKHz: of the recorded VMs.
    public init(_ host: HostIdentity, tscKHz: UInt32) {
        self.init(
            cpu: host.cpu, backend: host.backend, kernel: host.kernel, tscKHz: tscKHz, emulator: host.emulator)
    }
}
