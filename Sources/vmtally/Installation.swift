// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc

/// Where what belongs to this program lies: below the prefix that it is installed in (Packaging/README.md), or in the
/// checkout in whose build folder it is.
enum Installation {
    /// This program.
    static let program: String = {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let length = max(0, readlink("/proc/self/exe", &buffer, buffer.count - 1))
        return String(decoding: buffer.prefix(length).map(UInt8.init(bitPattern:)), as: UTF8.self)
    }()
    /// The emulated hosts' runner.
    static var lab: String { share + "/Lab/run" }
    /// What to type for it.
    static var labCommand: String { isInstalled ? "vmtally-lab" : "Lab/run" }
    /// How to get the lab, where it is missing.
    static var labRemedy: String {
        isInstalled ? "install vmtally-lab" : "run it from the build folder of a source checkout"
    }
    /// Becomes a program of its own that a subcommand stands for: `vmtally-history`.
    ///
    /// - Parameters:
    ///   - overview: what it would say of itself, for those who ask before it is there.
    ///   - brings: what building it takes time for.
    static func become(_ name: String, _ arguments: [String], overview: String, brings: String) throws {
        let program = (isInstalled ? libexec : programFolder) + "/" + name
        var argv: [UnsafeMutablePointer<CChar>?] = ([program] + arguments).map { strdup($0) } + [nil]
        execv(program, &argv)
        let error = errno
        guard error == ENOENT else { throw Failure("\(program): \(String(cString: strerror(error)))") }
        // Its package, or its goal in the Makefile.
        let remedy =
            isInstalled
            ? "Install \(name)"
            : "Run make \(name.split(separator: "-").last ?? "") (it brings \(brings): a minute or two)"
        let text = "\(name) is not here yet. \(remedy)."
        guard arguments.first.map({ ["help", "--help", "-h"].contains($0) }) ?? true else { throw Failure(text) }
        print(overview + "\n" + text)
        if arguments.isEmpty { throw ExitCode(EXIT_FAILURE) }
    }
    /// The Linux guest that is run when none is named.
    static var guestFolder: String { isInstalled ? cache + "/guest" : programFolder + "/guest" }
    static var guestRemedy: String { isInstalled ? "run vmtally-guest" : "run make guest" }

    private static var programFolder: String { directory(of: program) }
    private static var isInstalled: Bool { programFolder.hasSuffix("/bin") }
    private static var libexec: String { directory(of: programFolder) + "/libexec/vmtally" }
    /// Where the scripts of a checkout are, there or installed.
    private static var share: String { isInstalled ? libexec : directory(of: programFolder) }

    private static var cache: String {
        if let folder = variable("VMTALLY_CACHE") { return folder }
        if let folder = variable("XDG_CACHE_HOME") { return folder + "/vmtally" }
        return (variable("HOME") ?? "/root") + "/.cache/vmtally"
    }

    private static func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
    }

    private static func directory(of path: String) -> String {
        path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
    }
}
