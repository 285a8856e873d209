// SPDX-License-Identifier: Apache-2.0
import Machine

/// The presets' consoles.
package enum BootConsole: String, CaseIterable, Sendable {
    case virtio
    case serial
    case none

    /// By its name, or that of a 16550's ancestor.
    package init?(argument: String) {
        self.init(rawValue: argument == "8250" ? "serial" : argument)
    }

    var device: DeviceConfiguration.Console {
        switch self {
        case .virtio: .virtio
        case .serial: .serial
        case .none: .none
        }
    }
}
