import ArgumentParser
import Glibc

/// The lab's SVM ground, for those who have no /dev/kvm: the same command in an emulated AMD host.
enum EmulatedHost {
    /// Replaces this process by one that runs the same command there.
    ///
    /// - Throws: ``Failure`` when the lab is not at hand. Why /dev/kvm does not work is for the caller to tell.
    static func runAgain() throws -> Never {
        guard let executable = ReadyGuest.executable else {
            throw Failure("the emulated host is found by way of /proc: mount -t proc none /proc")
        }
        let lab = directory(of: directory(of: executable)) + "/Lab/run"
        guard access(lab, X_OK) == 0 else {
            throw Failure(
                "without /dev/kvm the demo needs the emulated host of a source checkout: type make demo there")
        }
        warn("vmtally: running the same demo in an emulated AMD host (QEMU; the first time, Debian packages come in)")
        let words = [lab, "svm", "--", executable] + Arguments.all.dropFirst()
        var argv: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        execv(lab, &argv)
        throw Failure("\(lab): \(String(cString: strerror(errno)))")
    }

    private static func directory(of path: String) -> String {
        path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
    }
}
