// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Machine

/// A switch with a word for each position.
enum OnOff: String, ExpressibleByArgument, CaseIterable {
    case on
    case off
}

/// `--on-reset`.
enum ResetPolicy: String, ExpressibleByArgument, CaseIterable {
    case end
    case restart

    /// A guest that resets for ever ends here.
    static let mostBoots = 10_000
}

extension DeviceConfiguration.Console: ExpressibleByArgument {}
extension DeviceConfiguration.ACPI: ExpressibleByArgument {}
extension InterruptControllers: ExpressibleByArgument {}
extension LiveCPUIDMode: ExpressibleByArgument {}
