// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc

/// The lab's SVM ground, for those who have no /dev/kvm: the same command in an emulated AMD host.
enum EmulatedHost {
    /// Replaces this process by one that runs the same command there.
    ///
    /// - Throws: ``Failure`` when the lab is not at hand. Why /dev/kvm does not work is for the caller to tell.
    static func runAgain() throws -> Never {
        let lab = Installation.lab
        guard access(lab, X_OK) == 0 else {
            throw Failure("without /dev/kvm the demo needs an emulated host: \(Installation.labRemedy)")
        }
        warn("running the same demo in an emulated AMD host (QEMU; the first time, Debian packages come in)")
        let words = [lab, "svm", "--", Installation.program] + Arguments.all.dropFirst()
        var argv: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        execv(lab, &argv)
        throw Failure("\(lab): \(String(cString: strerror(errno)))")
    }
}
