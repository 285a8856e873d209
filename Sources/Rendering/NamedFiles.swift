// SPDX-License-Identifier: Apache-2.0
import Glibc

/// Files of one command line, by the option that names each, so that none costs another its content.
public struct NamedFiles {
    private var inputs: [(option: String, path: String)] = []
    private var outputs: [(option: String, path: String)] = []

    /// None yet.
    public init() {}

    /// A file that is read; nil where none was named.
    public mutating func input(_ option: String, _ path: String?) {
        if let path { inputs.append((option, path)) }
    }

    /// A file that is written, `-` for standard output; nil where none was named.
    public mutating func output(_ option: String, _ path: String?) {
        if let path { outputs.append((option, path)) }
    }

    /// - Throws: when a file is to be written that is also read, or written twice, or has no name.
    public func check() throws(NamedFilesError) {
        if let (option, _) = (inputs + outputs).first(where: { $0.path.isEmpty }) {
            throw NamedFilesError(description: "\(option) takes the name of a file")
        }
        let streams = outputs.filter { $0.path == "-" }
        if streams.count > 1 {
            let (one, other) = (streams[0].option, streams[1].option)
            throw NamedFilesError(
                description: "\(one) and \(other) cannot both have standard output: give one of them a file")
        }
        let outputs = outputs.filter { $0.path != "-" }
        for (index, output) in outputs.enumerated() {
            for other in inputs + outputs[..<index] where Self.areSame(output.path, other.path) {
                throw NamedFilesError(
                    description: "\(output.option) and \(other.option) are the same file, \(output.path): give another")
            }
        }
    }

    /// Devices and FIFOs may well be given twice.
    private static func areSame(_ left: String, _ right: String) -> Bool {
        var (first, second) = (stat(), stat())
        switch (stat(left, &first), stat(right, &second)) {
        case (0, 0):
            return first.st_mode & S_IFMT == S_IFREG && first.st_dev == second.st_dev && first.st_ino == second.st_ino
        case (0, _), (_, 0): return false
        default:
            // Neither is there yet: the same name in the same folder.
            let name = { (path: String) in path.split(separator: "/").last }
            guard name(left) == name(right) else { return false }
            guard stat(folder(of: left), &first) == 0, stat(folder(of: right), &second) == 0
            else { return left == right }
            return first.st_dev == second.st_dev && first.st_ino == second.st_ino
        }
    }

    /// Where links lead, at the last of them to a file that is not there yet as well.
    public static func target(of path: String) -> String {
        if let text = realpath(path, nil) {
            defer { free(text) }
            return String(cString: text)
        }
        var path = path
        for _ in 0..<40 {
            var target = [CChar](repeating: 0, count: Int(PATH_MAX))
            let length = readlink(path, &target, target.count - 1)
            guard length > 0 else { break }
            let name = String(decoding: target.prefix(length).map(UInt8.init(bitPattern:)), as: UTF8.self)
            path = name.hasPrefix("/") ? name : folder(of: path) + "/" + name
        }
        return path
    }

    /// The folder that a path names a file in.
    public static func folder(of path: String) -> String {
        path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    }
}

/// Two of a command's files are one, which would cost what was in it; or one has no name.
public struct NamedFilesError: Error, Equatable, CustomStringConvertible, Sendable {
    /// Which two, and the remedy.
    public let description: String
}
