import ArgumentParser
import Glibc

/// The lab's SVM ground, for those who have no /dev/kvm: the same command in an emulated AMD host.
enum EmulatedHost {
    /// Replaces this process by one that runs the same command there.
    ///
    /// - Throws: ``Failure`` when the lab is not at hand. Why /dev/kvm does not work is for the caller to tell.
    static func runAgain() throws -> Never {
        guard let executable = executablePath() else { throw ExitCode(1) }
        let lab = directory(of: directory(of: executable)) + "/Lab/run"
        guard access(lab, X_OK) == 0 else {
            throw Failure(
                "without /dev/kvm the demo needs the emulated host of a source checkout: type make demo there")
        }
        warn("vmtally: running the same demo in an emulated AMD host (QEMU; the first time, Debian packages come in)")
        let words = [lab, "svm", "--", executable] + CommandLine.arguments.dropFirst()
        var argv: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        execv(lab, &argv)
        throw Failure("\(lab): \(String(cString: strerror(errno)))")
    }

    private static func executablePath() -> String? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let length = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        guard length > 0 else { return nil }
        return String(decoding: buffer.prefix(length).map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    private static func directory(of path: String) -> String {
        path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
    }
}
