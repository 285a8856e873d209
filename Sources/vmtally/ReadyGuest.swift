// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc

/// What `make guest` and `vmtally-guest` leave.
struct ReadyGuest {
    private let folder = Installation.guestFolder

    var initrd: String { folder + "/initrd" }

    /// - Parameter options: that name another guest.
    /// - Throws: `ValidationError` when it has not been made.
    func kernel(else options: String) throws -> String {
        let path = folder + "/vmlinuz"
        guard access(path, R_OK) == 0 else {
            throw ValidationError("no guest to run: give \(options), or \(Installation.guestRemedy)")
        }
        return path
    }
}
