import ArgumentParser
import Glibc

/// The lab's SVM ground, for those who have no /dev/kvm: the same command in an emulated AMD host.
enum EmulatedHost {
    /// Set inside the emulated host, so that a failure there does not start another one.
    private static let marker = "VMTALLY_EMULATED"

    /// Replaces this process by one that runs the same command there.
    ///
    /// - Throws: ``Failure`` when the lab is not at hand; the caller has told why /dev/kvm does not work.
    static func runAgain() throws -> Never {
        guard getenv(marker) == nil, let executable = executablePath() else { throw ExitCode(1) }
        let lab = directory(of: directory(of: executable)) + "/Tests/Lab/run"
        guard access(lab, X_OK) == 0 else {
            throw Failure(
                "without /dev/kvm the demo runs in an emulated host from a source checkout: type make demo there")
        }
        warn("vmtally: running the same demo in an emulated AMD host (QEMU, about 10 s; first a download)")
        let arguments = CommandLine.arguments.dropFirst().joined(separator: " ")
        let words = [lab, "svm", "--", "\(marker)=1 /bin/\(name(of: executable)) \(arguments)"]
        setenv("VMTALLY_PACK", executable, 1)
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

    private static func name(of path: String) -> String {
        path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
    }
}
