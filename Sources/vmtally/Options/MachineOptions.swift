// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Machine

/// A switch with a word for each position.
enum OnOff: String, Choice {
    case on
    case off
}

/// `--on-reset`.
enum ResetPolicy: String, Choice {
    case end
    case restart

    /// A guest that resets for ever ends here.
    static let mostBoots = 10_000
}

extension DeviceConfiguration.Console: Choice {}
extension DeviceConfiguration.ACPI: Choice {}
extension InterruptControllers: Choice {}
extension LiveCPUIDMode: Choice {}
